"""Kill runs at seeded moments and let them go on: is what comes out the same bits?

    python tests/tools/kill_run.py FOLDER [--long N] [--seed S] [--only NAME] [--record]

One warm parent forks, so that the seconds the libraries take to load are paid once. A recipe of each way of training
runs once without a break; then it is started again and again, each time until a moment drawn with the seed, and killed
there with SIGKILL; at last it runs to its end. Prints one JSON line for each way, and a sum; ``--record`` keeps it in
``tests/results/kills.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

import figures  # noqa: E402
import tiny_run  # noqa: E402

from guided_ft import run  # noqa: E402
from guided_ft.pipeline import training as _training  # noqa: E402, F401  (loaded before the forks)

WAYS: dict[str, dict[str, Any]] = {
    f"{trainer} {mode}": {"trainer": trainer, "mode": mode}
    for trainer in ("sft", "dpo")
    for mode in ("slice", "freeze", "lora", "subspace")
}

KILLS = {
    "sft slice": ("localize", "cache", "save", "any"),
    "sft freeze": ("localize", "save", "any"),
    "sft lora": ("save", "save", "any"),
    "sft subspace": ("localize", "cache", "save", "any"),
    "dpo slice": ("localize", "cache", "save", "save"),
    "dpo freeze": ("save", "save", "any"),
    "dpo lora": ("localize", "save", "any"),
    "dpo subspace": ("localize", "save", "save", "any"),
}
"""28 kills: 12 inside a save, 6 inside localization, 3 while the first states are cached, 7 wherever it is."""


def inside_save(folder: Path) -> bool:
    saves = [path for path in (folder / "train").glob("checkpoint-*") if not (path / "guided.json").exists()]
    return bool(saves) or (folder / ".adapter.tmp").exists()


def inside_localize(folder: Path) -> bool:
    return (folder / "stages" / "before.json").exists() and not (folder / "stages" / "localize.json").exists()


def inside_cache(folder: Path) -> bool:
    stores = list((folder / "train" / "_guided" / "prefix").rglob("hidden.safetensors"))
    return bool(stores) and not any((path.parent / "index.csv").exists() for path in stores)


INSIDE = {"save": inside_save, "localize": inside_localize, "cache": inside_cache}
WAIT = {"save": 0.01, "localize": 0.2, "cache": 0.02}
"""Seconds that are waited at most after the moment has come."""


def kill(asked: Any, where: str, folder: Path, rng: random.Random, seconds: float) -> str:
    """Start the recipe and kill it; returns where it was found on disk afterwards, or that it ended before."""
    child = start(asked)
    began, delay = time.perf_counter(), rng.uniform(0, WAIT.get(where, seconds))
    if where in INSIDE:
        while not INSIDE[where](folder):
            if os.waitpid(child, os.WNOHANG)[0]:
                return "ended"
            time.sleep(0.0003)
        time.sleep(delay)
    else:
        while time.perf_counter() - began < delay:
            if os.waitpid(child, os.WNOHANG)[0]:
                return "ended"
            time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return next((name for name, inside in INSIDE.items() if inside(folder)), "elsewhere")


def start(asked: Any) -> int:
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        # Each run makes its own: what another one left there would spare it the moments to be killed at.
        os.environ["GUIDED_FT_CACHE"] = f"{asked.output_dir}-cache"
        code = 1
        try:
            run(asked, quiet=True)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def finish(asked: Any) -> float:
    began = time.perf_counter()
    assert os.waitstatus_to_exitcode(os.waitpid(start(asked), 0)[1]) == 0, f"{asked.name}: it did not go on"
    return time.perf_counter() - began


def recipe(folder: Path, name: str, way: str) -> Any:
    budget = "45%" if WAYS[way]["mode"] == "freeze" else "15%"
    train = {"steps": 12, "save_steps": 1, "prefix_cache": "1MB", **WAYS[way]}
    return tiny_run.recipe(folder, name, control="none", train=train, select={"budget": budget, "first_layer": 1})


def try_way(folder: Path, way: str, kills: tuple[str, ...], seed: int) -> dict[str, Any]:
    """The fates of the kills, and whether the adapter and what was measured are those of the unbroken run."""
    rng = random.Random(f"{seed}:{way}")
    names = [f"{way.replace(' ', '-')}-{seed}-{kind}" for kind in ("whole", "killed")]
    whole, killed = (recipe(folder, name, way) for name in names)
    seconds = finish(whole)
    fates = [kill(killed, where, folder / names[1], rng, 0.8 * seconds) for where in kills]
    finish(killed)
    records = [json.loads((folder / name / "run.json").read_text()) for name in names]
    same = tiny_run.adapter(folder / names[0]) == tiny_run.adapter(folder / names[1])
    told = all(records[0][key] == records[1][key] for key in ("after", "retention", "selected", "frozen"))
    if same and told:
        for name in names:
            shutil.rmtree(folder / name)
    return {"way": way, "seed": seed, "kills": fates, "same bits": same, "same figures": told}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("--long", type=int, default=0, help="so many kills, instead of 20")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", help="one way, such as 'sft slice'")
    options.add_argument("--record", action="store_true", help="keep the sum in tests/results")
    asked = options.parse_args()
    fates: Counter[str] = Counter()
    equal = done = 0
    seed = asked.seed
    while True:
        for way in [asked.only] if asked.only else WAYS:
            found = try_way(asked.folder, way, KILLS[way], seed)
            print(json.dumps(found), flush=True)
            fates.update(found["kills"])
            done += 1
            equal += found["same bits"] and found["same figures"]
        seed += 1
        killed = sum(count for fate, count in fates.items() if fate != "ended")
        if killed >= asked.long:
            break
    total = {"kills": killed, "runs": done, "equal": equal, **dict(sorted(fates.items()))}
    print(json.dumps(total), flush=True)
    if asked.record:
        figures.write("kills", f"python tests/tools/kill_run.py FOLDER --long {asked.long} --record", total)


if __name__ == "__main__":
    main()
