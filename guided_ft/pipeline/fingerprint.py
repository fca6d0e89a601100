"""What each stage of a run depends on: all that its recipe says, and the content of all that it names.

Everything counts but what is listed here by name, so that a key which a recipe gets tomorrow makes all stages run again
until someone says which of them it cannot concern. Imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plan.modes import make_mode
from ..recipe.recipe import keys as paths
from ..system.files import digest, sha256, write_json
from ..system.machine import versions
from ..system.places import EMBEDDED, cache_folder
from ..task import measures
from . import standard

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe

CALLED = ("name", "description", "output")
"""What a run is called and where it lies: no stage depends on it."""

PLANNED = ("train.mode", "train.mode_options", "train.rank", "train.lr_scale")
"""How what was chosen is trained."""

TRAINED = (
    *("train.learning_rate", "train.lr_scheduler", "train.warmup_steps", "train.weight_decay", "train.max_grad_norm"),
    *("train.steps", "train.epochs", "train.batch_size", "train.accumulate", "train.save_steps"),
    *("train.gradient_checkpointing", "train.prefix_cache", "train.arguments", "train.reward"),
)
"""What the training loop alone reads."""

WITHOUT: Mapping[str, tuple[str, ...]] = {
    "before": (*CALLED, "control", "localize", "select", *PLANNED, *TRAINED),
    "localize": (*CALLED, "evaluate", "control", "select", *PLANNED, *TRAINED),
    "select": (*CALLED, "evaluate", "control", *TRAINED),
    "train": (*CALLED, "evaluate", "control"),
    "evaluate": (*CALLED, "control"),
    "control": CALLED,
}
"""The keys, or whole sections, that a stage does not depend on."""

FOLDERS: Mapping[str, tuple[str, tuple[str, ...]]] = {"model": ("*", (".md", ".lock")), "data.name": ("**/*", ())}
"""Keys that may name a folder, whose content then counts: a pattern of its files, and endings of those that nothing
reads. A data set's card says which files are its rows."""

BEHIND = {"evaluate.lm_eval": standard.files, "evaluate.metric": measures.files}
"""Keys whose values name further files, and how these are found."""

_DRAWN_BY = ("reasoning-gym", "datasets")
"""Libraries that rows are drawn by, beside those that a result depends on."""

LARGE = 16 << 20
"""Bytes from which on the hash of a file is remembered."""

SETTLED = 2.0
"""Seconds after which a change of a file shows in its times."""


def stage_keys(recipe: Recipe) -> dict[str, str]:
    """A digest, for each stage, of everything that it depends on."""
    common = [versions(), {name: _version(name) for name in _DRAWN_BY}]
    values = {path: functools.reduce(getattr, path.split("."), recipe) for path in paths()}
    content = functools.cache(
        lambda path: [path, _content(values[path], FOLDERS.get(path)), *behind(path, values[path])]
    )
    found = {}
    for stage, without in WITHOUT.items():
        counted = [path for path in values if not any(f"{path}.".startswith(f"{w}.") for w in without)]
        question = None if "localize" in without else _question(recipe)
        found[stage] = digest(common, question, [content(path) for path in counted])
    return found


def _question(recipe: Recipe) -> Any:
    """What a map depends on beside its own section: the mode may ask another question, and exact ablation, which takes
    long, scores only what may be chosen."""
    train = recipe.train
    kinds = recipe.select.kinds if recipe.localize.method == "ablation" else None
    return [make_mode(train.mode, train.rank, train.mode_options).question(recipe.select.budget), kinds]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _content(value: object, counts: tuple[str, tuple[str, ...]] | None) -> Any:
    """The value as JSON data, with the content of whatever it names: a file, or several between commas.

    Args:
        counts: what counts of a folder that it names (``FOLDERS``); None: it names none.
    """
    if isinstance(value, Mapping):
        return {key: _content(item, counts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_content(item, counts) for item in value]
    if not isinstance(value, str):
        return value
    if value in EMBEDDED:
        return [value, EMBEDDED[value][-1]]
    found: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        for name in dict.fromkeys((value, *value.split(","))):
            path = Path(name.strip())
            if path.is_file():
                found.append(file_hash(path))
            elif counts and path.is_dir():
                found.append(_inside(path, *counts))
    return [value, *found]


def behind(path: str, value: Any) -> list[str]:
    """The hashes of files that are named in the files that a value names."""
    return [file_hash(file) for file in BEHIND[path](value) if file.is_file()] if path in BEHIND else []


def _inside(folder: Path, pattern: str, unread: tuple[str, ...]) -> dict[str, str]:
    """The hashes of a folder's files by their paths in it; what is hidden (a download's own notes) does not count."""
    names = sorted(glob.iglob(pattern, root_dir=folder, recursive=True))
    return {name: file_hash(folder / name) for name in names if (folder / name).is_file() and not name.endswith(unread)}


def file_hash(path: Path) -> str:
    """The sha256 of a file. That of a large one is remembered, for as long as nothing has been written to it.

    What a program says of a file's time of change can be set at will; what the system says of its inode's cannot.
    """
    stat = path.stat()
    if stat.st_size < LARGE:
        return sha256(path)
    seen = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    name = digest(os.path.abspath(path))
    place = cache_folder() / "hashes" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept.get("file") == seen:
            return kept["sha256"]
    found = sha256(path)
    # A write in the same tick of the clock as the one before would not show.
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        with contextlib.suppress(OSError):
            write_json(place, {"kind": "hash", "version": 1, "file": seen, "sha256": found})
    return found
