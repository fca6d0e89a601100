"""What can be found wrong with a recipe before anything is loaded: files, layers, options. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import did_you_mean
from ..recipe.fields import kept_texts
from ..recipe.mends import Problem, RecipeError
from ..recipe.strict_yaml import shown, shown_path
from ..scorers.options import option_names
from ..system.places import EMBEDDED_LAYERS, not_installed
from ..task.samples import SAMPLES
from . import standard
from .data import load_rows

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe

REPORTERS = {
    **{name: (name,) for name in ("clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "mlflow", "neptune")},
    **{name: (name,) for name in ("swanlab", "trackio", "wandb")},
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "kubeflow": (),
    "tensorboard": ("tensorboard", "tensorboardX"),
}
"""Where ``train.report_to`` can send figures: the trainers' name, and the modules of which one must be installed."""


def preflight(recipe: Recipe, *, rows: bool = False) -> None:
    """Raise RecipeError with all that is wrong.

    Args:
        rows: read a file's rows too, as the run will.
    """
    problems = [*_files(recipe), *_layers(recipe), *_options(recipe), *_reporters(recipe)]
    if (told := standard.problem(recipe)) is not None:
        problems.append(("evaluate.lm_eval", told))
    if problems:
        raise RecipeError(problems)
    if rows and recipe.data.source == "file":
        load_rows(recipe.data, recipe.seed, recipe.train.trainer)


def _files(recipe: Recipe) -> list[Problem]:
    named = {"data.path": recipe.data.path, "data.test_path": recipe.data.test_path}
    if recipe.data.source != "file":
        named = {}
    found = [(key, path) for key, path in named.items() if path]
    kept = [("localize.retain", text) for text in kept_texts(recipe.localize.retain)]
    kept.append(("evaluate.retention", recipe.evaluate.retention))
    found += [(key, text) for key, text in kept if text not in ("self", "none", *SAMPLES)]
    missing = [(key, f"{shown_path(path)}: no such file") for key, path in found if not Path(path).is_file()]
    model = recipe.model
    if model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        missing.append(("model", f"{shown_path(model)}: no such folder"))
    if (told := not_installed(model)) is not None:
        missing.append(("model", told))
    return missing


def _layers(recipe: Recipe) -> list[Problem]:
    layers = num_layers(recipe.model)
    first = recipe.select.first_layer
    if layers is None or first < layers:
        return []
    return [("select.first_layer", f"{first} is beyond the model's {layers} layers (write 0 to {layers - 1})")]


def num_layers(model: str) -> int | None:
    """Layers of a model, by its configuration in a folder or the Hub's cache; None if there is none on this machine."""
    if model in EMBEDDED_LAYERS:
        return EMBEDDED_LAYERS[model]
    path: Any = Path(model, "config.json")
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(model, "config.json")
        except HFValidationError:
            return None
        if not isinstance(path, str):
            return None
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        config = config.get("text_config") or config
    except (OSError, ValueError, AttributeError):
        return None  # whoever loads the model says so
    counts = (config.get(key) for key in ("num_hidden_layers", "n_layer", "num_layers"))
    return next((count for count in counts if isinstance(count, int)), None)


def _options(recipe: Recipe) -> list[Problem]:
    known = option_names(recipe.localize.method)
    found: list[Problem] = []
    if known is None:
        return found
    for name in recipe.localize.options:
        if name == "seed":
            found.append(("localize.options.seed", "a key of its own (write seed at the top level)"))
        elif name not in known:
            where = f"localize.options.{name}"
            found.append((where, f"no option of method {recipe.localize.method} ({did_you_mean(name[:60], known)})"))
    return found


def _reporters(recipe: Recipe) -> list[Problem]:
    name = str(recipe.train.arguments.get("report_to", "none"))
    if name not in REPORTERS and name not in ("all", "none"):
        told = f"unknown value {shown(name)} ({did_you_mean(name[:60], [*REPORTERS, 'all', 'none'])})"
        return [("train.report_to", told)]
    modules = REPORTERS.get(name)
    if not modules or any(map(importlib.util.find_spec, modules)):
        return []
    return [("train.report_to", f"{modules[0]!r} is not installed (install it, or write none)")]
