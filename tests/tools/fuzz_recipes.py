"""Recipes with one mistake each: keys, values, numbers, what does not fit together, and text that is no YAML."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_run
from fuzz import Case

from guided_ft.cli import main
from guided_ft.recipe import strict_yaml
from guided_ft.recipe.recipe import keys

ODD = [
    *(None, True, False, -1, 0, 0.5, 2.5, -0.5, 10**12, 10**29, float("inf"), float("nan"), "", " ", "~", "no", "1e3"),
    *("x", "x" * 300, "../x", "a b", "ä", "%", "0%", "101%", "-1%", "1..2", "1:30", "010", [], ["x"], [1], [[]], {}),
    *({"a": 1}, {"a": {"b": [1]}}, "head", ["head", "head"], "selff", "x.doc", "https://example.org/x", "\u2028"),
]

WORDS = ["budgt", "sted", "lr", "batchsize", "train.steps", "Train", "trust_remote_code", "<<", "model ", "", "steps\n"]

TEXTS = [
    *(
        b"",
        b"\n",
        b"null",
        b"3",
        b"[]",
        b"- a",
        b"{",
        b"}",
        b"a: [",
        b"a: 'x",
        b"\xff\xfe",
        b"\x00",
        b"\xef\xbb\xbf\xff",
    ),
    *(b"seed: 1\nseed: 2", b"---\nseed: 1\n---\nseed: 2", b"\tseed: 1", b"seed:\n\t- 1", b"model: &a x\nname: *a"),
    *(b"model: !!python/object/apply:os.system [ls]", b"model: !x y", b"1: 2", b"? [a]\n: 1", b"model: a: b", b"seed"),
    b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]",
    *(b"model: @x", b"model: a\x07b", b'model: "\\ud800"', b'model: "\\UFFFFFFFF"', b"[" * 3000, b"{a: " * 2000),
    *(
        b"seed: " + b"9" * 5000,
        b"# " + b"x" * 70000 + b"\nx: 1",
        b"x" * 200000,
        "seed: \u0663".encode(),
        b"%YAML 9.9\n",
    ),
]

CLASHES: list[dict[str, Any]] = [
    {"train": {"trainer": "dpo"}},
    {"quantization": "nf4", "train": {"mode": "freeze"}},
    {"train": {"mode": "freeze", "rank": 4}},
    {"train": {"mode": "slice", "mode_options": {"lam": 1}}},
    {"train": {"mode": "subspace", "mode_options": {"lamm": 1}}},
    {"select": {"first_layer": 99}},
    {"localize": {"options": {"seed": 1}}},
    {"localize": {"options": {"repl": "zero"}}},
    {"localize": {"retain": "nowhere.jsonl"}},
    {"evaluate": {"retention": "nowhere.txt"}},
    {"data": {"source": "file"}},
    {"data": {"source": "file", "path": "nowhere.jsonl"}},
    {"data": {"source": "hub"}},
    {"data": {"name": "x", "source": "nowhere"}},
    {"model": "/nowhere/at/all"},
    {"train": {"arguments": {"output_dir": "x"}}},
    {"train": {"arguments": {"learning_rte": 1}}},
    {"train": {"arguments": {"report_to": [1]}}},
    {"train": {"epochs": 2, "steps": 5}},
    {"name": "a/b"},
    {"extends": "nowhere"},
]

OVERRIDES = [
    "steps",
    "=1",
    "steps=",
    "stepz=1",
    "train=1",
    "select.budget=-1",
    "a.b.c=1",
    "select.kinds=head",
    "steps=5e",
]


def writable(folder: Path) -> list[Path]:
    """Where a check may write: what it keeps about what lies on the machine."""
    return [folder / "cache"]


def maker(folder: Path) -> Callable[[int, random.Random], Case]:
    """``make(number, rng)``: the recipe of a number, and the command that reads it."""
    good = tiny_run.recipe(folder, control="none")
    whole = strict_yaml.parse(_saved(good, folder), "recipe.yaml")
    os.chdir(folder)
    listed = _listing(folder)

    def left() -> str:
        (folder / "recipe.yaml").unlink()
        return ", ".join(sorted(_listing(folder) - listed))

    def make(number: int, rng: random.Random) -> Case:
        name, text, overrides, lines = _mistake(number, rng, whole)
        (folder / "recipe.yaml").write_bytes(text)
        command = ["check", str(folder / "recipe.yaml"), *overrides]
        return Case(name, lambda: main(command), lines, left)

    return make


def _saved(recipe: Any, folder: Path) -> str:
    recipe.save(folder / "good.yaml")
    text = (folder / "good.yaml").read_text(encoding="utf-8")
    (folder / "good.yaml").unlink()
    return text


def _listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "cache" not in path.parts}


def _mistake(number: int, rng: random.Random, whole: dict[str, Any]) -> tuple[str, bytes, list[str], int | None]:
    """What it is, the file, overrides, and how many lines it may take."""
    data = json.loads(json.dumps(whole))
    if number < len(TEXTS):
        return f"text {TEXTS[number][:30]!r}", TEXTS[number], [], None
    number -= len(TEXTS)
    if number < len(CLASHES):
        for section, value in CLASHES[number].items():
            data[section] = data.get(section, {}) | value if isinstance(value, dict) else value
        return f"clash {CLASHES[number]}", _yaml(data), [], None
    number -= len(CLASHES)
    if number < len(OVERRIDES):
        return f"override {OVERRIDES[number]}", _yaml(data), [OVERRIDES[number]], 1
    way = rng.choice(["value", "value", "value", "key", "section", "bytes"])
    path = rng.choice(sorted(keys()))
    section, _, key = path.rpartition(".")
    if way == "bytes":
        text = bytearray(_yaml(data))
        at = rng.randrange(len(text))
        text[at : at + rng.randrange(3)] = rng.choice(
            [b"\t", b"\x00", b"\xff", b"[", b"}", b"'", b": ", b"&", b"*", b"\r"]
        )
        return f"bytes at {at}", bytes(text), [], None
    inside = data if not section else data.setdefault(section, {})
    value = rng.choice(ODD)
    if way == "key":
        inside[rng.choice([*WORDS, key[:-1], key + "s", key.upper()])] = 1
        return f"key in {section or 'the top'}", _yaml(data), [], 1
    if way == "section":
        data[section or key] = value
        return f"{section or key}: {value!r:.40}", _yaml(data), [], None
    inside[key] = value
    # A source, a mode or a trainer decides what else there may be.
    free = key in ("source", "mode", "trainer", "name", "preference", "method", "model", "metric", "options")
    return f"{path}: {value!r:.40}", _yaml(data), [], None if free else 1


def _yaml(data: dict[str, Any]) -> bytes:
    return strict_yaml.dump(data).encode("utf-8", "surrogatepass")
