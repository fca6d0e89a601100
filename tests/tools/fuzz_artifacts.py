"""Files of ours with damage in them: maps, choices, plans, directions, adapters, caches, checkpoints, records of runs."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_run
import torch
from families import tokens
from fuzz import Case
from hostile import damaged, mutated
from safetensors.torch import load_file, save_file

from guided_ft import DirectionMap, Plan, ScoreMap, Selection, Subspace, run
from guided_ft.callback.resume import checkpoints, fault, newest_complete
from guided_ft.cli import main
from guided_ft.engine.store import PrefixStore
from guided_ft.use.finished import Finished

DIRECTIONS = {"mode": "subspace", "mode_options": {"max_rank": 4, "keep": False}, "steps": 2, "save_steps": 1}

INDICES = ["", "0-1048575", "0-9999999999", "5-1", "-1", "1,1,1", "9,3", "0x1", "99999999", "../x", "0" * 100_000]
"""Of rows, in an adapter's configuration."""

NAMES = ["../../etc/passwd", "/etc/passwd", "", "model.layers.99.mlp.up_proj", "x" * 5000, "\u0000", "a/../../b"]
"""Of modules and files."""


def writable(folder: Path) -> list[Path]:
    return [folder / "cache", folder / "case"]


def maker(folder: Path) -> Callable[[int, random.Random], Case]:
    """``make(number, rng)``: a copy of a run with one damaged file, and whoever reads that file."""
    whole = tiny_run.recipe(
        folder,
        "slices",
        control="none",
        train={"prefix_cache": "1MB", "steps": 12, "save_steps": 6},
        select={"first_layer": 1},
    )
    along = tiny_run.recipe(folder, "directions", control="none", train=DIRECTIONS)
    frozen = tiny_run.recipe(
        folder, "frozen", control="none", train={"mode": "freeze", "steps": 1}, select={"budget": "45%"}
    )
    for recipe in (whole, along, frozen):
        run(recipe, quiet=True)
    tiny_run.cut(whole.model_copy(update={"output": str(folder / "halted")}))
    case = folder / "case"

    def make(number: int, rng: random.Random) -> Case:
        name = rng.choice(sorted(READERS))
        home, file, read = READERS[name]
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(folder / home, case, ignore=shutil.ignore_patterns("report.html"))
        path = next(iter(sorted(case.glob(file))))
        what = _damage(path, rng)
        return Case(f"{name}: {path.name}, {what}", lambda: read(case, path))

    return make


def _damage(path: Path, rng: random.Random) -> str:
    """Damage a file in place; returns how."""
    way = rng.choice(["bytes", "sense", "sense", "sense"])
    if path.suffix == ".json" and way == "sense":
        data = json.loads(path.read_text(encoding="utf-8"))
        if rng.random() < 0.3 and "slices" in data:
            return _odd_slices(path, data, rng)
        for _ in range(rng.choice([1, 1, 3])):
            data = mutated(data, rng) or {"x": 1}
        path.write_text(json.dumps(data), encoding="utf-8")
        return "a value"
    if path.suffix == ".safetensors" and way == "sense":
        return _odd_tensors(path, rng)
    path.write_bytes(damaged(path.read_bytes(), rng))
    return "bytes"


def _odd_slices(path: Path, data: dict[str, Any], rng: random.Random) -> str:
    slices = data["slices"]
    module = rng.choice(sorted(slices))
    if rng.random() < 0.6:
        slices[module] = {"axis": rng.choice([0, 1, 2, "0"]), "index": rng.choice(INDICES)}
    else:
        slices[rng.choice(NAMES)] = slices.pop(module)
    path.write_text(json.dumps(data), encoding="utf-8")
    return "slices"


def _odd_tensors(path: Path, rng: random.Random) -> str:
    if rng.random() < 0.3:
        return _odd_header(path, rng)
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    old = tensors.pop(name)
    ways: dict[str, Callable[[], torch.Tensor | None]] = {
        "gone": lambda: None,
        "nan": lambda: torch.full(old.shape, float("nan")),
        "infinite": lambda: old.double() * 1e300 * 1e300,
        "short": lambda: old[:-1].clone(),
        "flat": lambda: old.flatten()[None, None].clone(),
        "halves": lambda: old.to(torch.float16),
        "whole numbers": lambda: old.to(torch.int64),
        "negative": lambda: -old - 1,
        "large": lambda: old + 10**6,
        "the same": lambda: torch.zeros_like(old),
        "backwards": lambda: old.flip(0),
        "empty": lambda: old.new_zeros(0),
    }
    way = rng.choice(sorted(ways))
    new = ways[way]()
    if new is not None:
        tensors[rng.choice([name, name, name, *NAMES[2:5]])] = new.contiguous()
    save_file(tensors or {"x": torch.zeros(1)}, path, metadata={"format": "pt"})
    return f"{name.split('.')[-1]} {way}"


def _odd_header(path: Path, rng: random.Random) -> str:
    """Sizes that are none: told to be far larger than the file, or to lie over each other."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = rng.choice(sorted(key for key in header if key != "__metadata__"))
    header[name] |= rng.choice(
        [
            {"shape": [2**40, 2**40]},
            {"shape": [10**9]},
            {"shape": [-1]},
            {"data_offsets": [0, 2**50]},
            {"data_offsets": [0, 4]},
            {"data_offsets": [8, 4]},
            {"dtype": "F99"},
            {"dtype": "U8"},
        ]
    )
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return "header"


# -- whoever reads it --------------------------------------------------------------------------------------------------
def _map(case: Path, path: Path) -> None:
    ScoreMap.load(case / "scores.safetensors")


def _directions(case: Path, path: Path) -> None:
    DirectionMap.load(case / "directions.safetensors")


def _of(noun: type[Subspace] | type[Plan], path: Path) -> None:
    """What a file of arrays belongs to."""
    noun.load(path.with_suffix(".json"))


def _trained(case: Path, path: Path) -> None:
    """The adapter, in the two ways in which a run's is used; what loads must compute numbers."""
    with torch.no_grad():
        logits = Finished(case).model(input_ids=tokens()).logits
    assert torch.isfinite(logits).all(), "it computes what is no number"


def _answer(case: Path, path: Path) -> None:
    Finished(case).tokenizer("1+3 =")


def _store(case: Path, path: Path) -> None:
    """Whatever is found there must be what was stored: the checksum says so, or there is nothing."""
    folder = path.parent
    store = PrefixStore(folder, 32, torch.float32, 1 << 20)
    for key in list(store._entries):
        states = store.get(key)
        assert states is None or (states.ndim == 2 and states.shape[1] == 32)
    store.put("x", torch.ones(3, 32))
    assert not store.max_tokens or torch.equal(store.get("x"), torch.ones(3, 32))


def _checkpoint(case: Path, path: Path) -> None:
    """The damaged one is known to be, and the other one is taken."""
    run_folder = case / "train"
    newest = checkpoints(run_folder)[-1]
    mine = Plan.load(newest.parent / "_guided" / "plan.json").hash
    why, found = fault(newest, mine), newest_complete(run_folder, mine)
    assert (why is None) == (found == newest), (why, found)
    if why is not None:
        assert why.isprintable()


def _again(case: Path, path: Path) -> None:
    """The whole run, once more: what is damaged is made anew, or refused."""
    main(["run", str(case / "recipe.yaml"), f"output={case}", "--quiet"])


def _show(case: Path, path: Path) -> None:
    main(["show", str(case)])


def _report(case: Path, path: Path) -> None:
    main(["report", str(case)])


def _map_of_unfinished(case: Path, path: Path) -> None:
    (case / "run.json").unlink()
    main(["show", str(case)])


READERS: dict[str, tuple[str, str, Callable[[Path, Path], None]]] = {
    "scores": ("slices", "scores.safetensors", _map),
    "scores' provenance": ("slices", "scores.json", _map),
    "selection": ("slices", "selection.json", lambda case, path: Selection.load(path) and None),
    "plan": ("slices", "plan.json", lambda case, path: Plan.load(path) and None),
    "directions": ("directions", "directions.safetensors", _directions),
    "directions' provenance": ("directions", "directions.json", _directions),
    "subspace": ("directions", "selection.json", lambda case, path: Subspace.load(path) and None),
    "subspace's arrays": ("directions", "selection.safetensors", lambda case, path: _of(Subspace, path)),
    "plan's arrays": ("directions", "plan.safetensors", lambda case, path: _of(Plan, path)),
    "plan along directions": ("directions", "plan.json", lambda case, path: Plan.load(path) and None),
    "adapter": ("slices", "adapter/adapter_model.safetensors", _trained),
    "adapter's configuration": ("slices", "adapter/adapter_config.json", _trained),
    "LoRA": ("directions", "adapter/adapter_model.safetensors", _trained),
    "LoRA's configuration": ("directions", "adapter/adapter_config.json", _trained),
    "whole model": ("frozen", "adapter/model.safetensors", _trained),
    "tokenizer": ("slices", "adapter/tokenizer.json", _answer),
    "tokenizer's configuration": ("slices", "adapter/tokenizer_config.json", _answer),
    "cache": ("halted", "train/_guided/prefix/*/*/hidden.safetensors", _store),
    "cache's index": ("halted", "train/_guided/prefix/*/*/index.csv", _store),
    "checkpoint's marker": ("halted", "train/checkpoint-12/guided.json", _checkpoint),
    "checkpoint's weights": ("halted", "train/checkpoint-12/adapter_model.safetensors", _checkpoint),
    "checkpoint's state": ("halted", "train/checkpoint-12/trainer_state.json", _checkpoint),
    "checkpoint's moments": ("halted", "train/checkpoint-12/optimizer.pt", _checkpoint),
    "record, shown": ("slices", "run.json", _show),
    "record, reported": ("slices", "run.json", _report),
    "map, shown": ("slices", "scores.json", _map_of_unfinished),
    "plan, shown": ("slices", "plan.json", _map_of_unfinished),
    "a stage's record, run again": ("directions", "stages/train.json", _again),
    "the choice, run again": ("directions", "selection.json", _again),
    "the request, gone on from": ("halted", "train/request.json", _again),
}
"""Every file: in which run it lies, where, and who reads it."""
