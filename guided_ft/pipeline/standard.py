"""Standard evaluations, by lm-eval (EleutherAI's harness), where it is installed. Imports no torch.

Tasks are lm-eval's own by name, or files that describe one as lm-eval's YAML does. A file is read as plain data: tags
such as ``!function``, which would run code, are refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from ..recipe.strict_yaml import read_mapping, shown_path
from ..system.files import Json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..recipe.recipe import Recipe

ENDINGS = (".yaml", ".yml", ".json")

SHARES = {"acc": "accuracy", "acc_norm": "normalized_accuracy", "exact_match": "exact_match"}
"""What lm-eval measures from 0 to 1 and is told in percent, and what it is called here."""


def tasks(asked: str | None) -> list[str | Json]:
    """The tasks that a recipe names: lm-eval's own by name, others as what their file says.

    Raises:
        GuidedError: for a file that cannot be read or names no task, or data that is not there.
    """
    return [_described(Path(name)) if name.endswith(ENDINGS) else name for name in _names(asked)]


def files(asked: str | None) -> list[Path]:
    """The files of data that the files of tasks name; what is wrong with them is told elsewhere."""
    found: list[Path] = []
    with contextlib.suppress(GuidedError):
        for task in tasks(asked):
            if isinstance(task, dict):
                found += [Path(path) for path in _paths(task)]
    return found


def problem(recipe: Recipe) -> str | None:
    """Why a recipe's standard evaluations cannot be done, or nothing."""
    asked = recipe.evaluate.lm_eval
    if asked is None:
        return None
    if importlib.util.find_spec("lm_eval") is None:
        return "lm-eval is not installed (run: pip install 'guided-ft[eval]')"
    try:
        tasks(asked)
    except GuidedError as error:
        return str(error)
    return None


def versions(recipe: Recipe) -> dict[str, str]:
    """The version of lm-eval, for a recipe that asks it; else nothing."""
    return {"lm-eval": version("lm-eval")} if recipe.evaluate.lm_eval else {}


def evaluate(model: nn.Module, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> dict[str, float]:
    """What lm-eval measures: ``TASK_METRIC``, shares in percent.

    Raises:
        GuidedError: lm-eval refuses a task, or cannot load its data.
    """
    from ..system.eval_mode import evaluating

    asked = tasks(recipe.evaluate.lm_eval)
    if not asked:
        return {}
    with _quiet():
        from lm_eval import simple_evaluate  # type: ignore[import-not-found]
        from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

        try:
            with evaluating(model):
                measured = simple_evaluate(
                    model=HFLM(
                        pretrained=model,
                        tokenizer=tokenizer,
                        backend="causal",
                        batch_size=recipe.evaluate.batch_size,
                    ),
                    tasks=asked,
                    limit=recipe.evaluate.lm_eval_limit,
                    bootstrap_iters=0,
                    log_samples=False,
                    random_seed=recipe.seed,
                    numpy_random_seed=recipe.seed,
                    torch_random_seed=recipe.seed,
                    fewshot_random_seed=recipe.seed,
                )
        except Exception as error:  # lm-eval, jinja and datasets raise many kinds
            told = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise GuidedError(f"evaluate.lm_eval: lm-eval refuses it ({told[:200]})") from None
    return _named(measured["results"])


def _names(asked: str | None) -> list[str]:
    return [name.strip() for name in (asked or "").split(",") if name.strip()]


def _described(path: Path) -> Json:
    said = read_mapping(path, shown_path(str(path)))
    if not isinstance(said.get("task"), str):
        raise GuidedError(f"{shown_path(str(path))}: no name of a task (write task: a_name)")
    options = said.get("dataset_kwargs")
    if isinstance(options, dict) and "data_files" in options:
        # A path is one from the file that says it, wherever it is run.
        said["dataset_kwargs"] = {**options, "data_files": _from(path.parent, options["data_files"])}
    missing = [found for found in _paths(said) if not Path(found).is_file()]
    if missing:
        raise GuidedError(f"{shown_path(str(path))}: {shown_path(missing[0])}: no such file")
    return said


def _from(folder: Path, named: object) -> Any:
    if isinstance(named, dict):
        return {split: _from(folder, value) for split, value in named.items()}
    if isinstance(named, list):
        return [_from(folder, value) for value in named]
    return str((folder / str(named)).resolve())


def _paths(task: Json) -> Iterator[str]:
    named = (task.get("dataset_kwargs") or {}).get("data_files", [])
    for value in named.values() if isinstance(named, dict) else [named]:
        yield from value if isinstance(value, list) else [value]


def _named(results: dict[str, Json]) -> dict[str, float]:
    found: dict[str, float] = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, chosen = key.partition(",")
            if not isinstance(value, int | float) or not math.isfinite(value) or "stderr" in metric or not chosen:
                continue
            middle = "" if chosen == "none" else f"{chosen}_"
            found[f"{task}_{middle}{SHARES.get(metric, metric)}"] = (100 if metric in SHARES else 1) * float(value)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval tells its settings and a table of all that is left at its default."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
