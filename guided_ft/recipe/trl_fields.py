"""The fields of the arguments of TRL's trainers that a recipe's train section passes on. Imports no trainer.

Their names and types are read from the source files: importing them would take longer than all else that checks.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..errors import GuidedError, did_you_mean
from ..system.files import Json
from .says import show

OWN = {
    "max_steps": "train.steps",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulate",
    "lr_scheduler_type": "train.lr_scheduler",
    "output_dir": "output",
    "seed": "seed",
    "bf16": "dtype",
    "fp16": "dtype",
    "per_device_eval_batch_size": "evaluate.batch_size",
}
"""Fields that a recipe says with keys of its own."""

TAKEN = (
    "save_strategy",
    "save_total_limit",
    "resume_from_checkpoint",
    "use_cpu",
    "disable_tqdm",
    "push_to_hub",
    "do_eval",
)
"""Fields that a run must decide itself: without its checkpoints it could not go on, and it measures in stages."""

TrainerName = Literal["sft", "dpo", "grpo"]
"""TRL's trainers that a recipe can have."""

TRAINERS: tuple[str, ...] = get_args(TrainerName)

_SHARED = (("trl", "trainer/base_config.py"), ("transformers", "training_args.py"))
_FILES = {name: (("trl", f"trainer/{name}_config.py"), *_SHARED) for name in TRAINERS}
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


@functools.cache
def fields(trainer: str) -> Mapping[str, str]:
    """The fields of a trainer's arguments: names and annotations. Empty where they cannot be read."""
    found: dict[str, str] = {}
    for package, file in reversed(_FILES.get(trainer, ())):
        found |= annotated(package, file)
    return MappingProxyType(found)


def annotated(package: str, file: str) -> dict[str, str]:
    """The annotated names in the classes of a package's file, by reading it."""
    spec = importlib.util.find_spec(package)
    paths = [Path(folder) / file for folder in (spec.submodule_search_locations or () if spec else ())]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    lines = (line for tree in trees for node in tree.body if isinstance(node, ast.ClassDef) for line in node.body)
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in lines
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def check_field(trainer: str, name: str, value: object) -> None:
    """Raise GuidedError, without the key, for a field that is none, is not the recipe's to set, or has another type."""
    known = fields(trainer)
    if name in OWN:
        raise GuidedError(f"a recipe has a key for that (write {OWN[name]})")
    if name in TAKEN or name.startswith(("eval_", "load_best", "hub_", "fsdp", "deepspeed")):
        raise GuidedError("a run decides that itself (remove it, or train in a script of your own with GuidedCallback)")
    if name == "trust_remote_code":
        raise GuidedError("a recipe cannot ask for that (give --trust-remote-code on the command line)")
    if name == "assistant_only_loss":
        raise GuidedError("a recipe learns whole messages or the last answer (write completion_only_loss: true)")
    if name not in known:
        raise GuidedError(f"no field of the {trainer} trainer ({did_you_mean(name[:60], known)})")
    check_type(known[name], value)


def check_type(annotation: str, value: Any) -> None:
    """Raise GuidedError, without the key, for a value of another type than a field's; of plain types only."""
    kinds = [part.strip() for part in annotation.split("|")]
    if not all(kind in _TYPES or kind == "None" for kind in kinds):
        return
    right = any(_is(value, kind) for kind in kinds)
    if not right:
        raise GuidedError(f"expected {' or '.join(kind for kind in kinds if kind != 'None')}, got {show(value)}")


def _is(value: object, kind: str) -> bool:
    if kind == "None":
        return value is None
    return isinstance(value, _TYPES[kind]) and (isinstance(value, bool) == (kind == "bool"))


def argument_problems(data: Mapping[str, object]) -> list[tuple[str, str]]:
    """What is wrong with the fields in ``train.arguments``: key paths, and what is wrong there."""
    train = data.get("train")
    train = train if isinstance(train, Mapping) else getattr(train, "__dict__", {})
    given, trainer, found = train.get("arguments"), train.get("trainer", "sft"), []
    for name, value in (
        given.items() if isinstance(given, Mapping) and isinstance(trainer, str) and trainer in _FILES else ()
    ):
        try:
            check_field(trainer, str(name), value)
        except GuidedError as error:
            found.append((f"train.{name}", str(error)))
    return found


def hoisted(data: Mapping[str, object], own: Mapping[str, object]) -> Json:
    """The recipe with the trainer's fields among its ``train`` keys moved into ``train.arguments``.

    Args:
        data: a recipe's sections, not checked yet.
        own: the keys of the train section.
    """
    train = data.get("train")
    if not isinstance(train, Mapping) or not isinstance(train.get("arguments", {}), Mapping):
        return dict(data)
    strange = [key for key in train if isinstance(key, str) and key not in own]
    trainer = train.get("trainer", "sft")
    known = fields(trainer) if strange and isinstance(trainer, str) else {}
    moved = {key: train[key] for key in strange if key in known and key not in OWN}
    if not moved:
        return dict(data)
    rest = {key: value for key, value in train.items() if key not in moved}
    return {**data, "train": rest | {"arguments": {**train.get("arguments", {}), **moved}}}
