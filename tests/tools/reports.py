"""A run folder as reports read it, and the page they make of it."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from guided_ft.anatomy import Anatomy
from guided_ft.selection.budget import select
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.system.files import write_json

LAYERS, HEADS, GROUPS, NEURONS, HEAD_DIM, WIDTH = 4, 6, 3, 40, 4, 24


def anatomy(num_parameters: int = 40_000) -> Anatomy:
    rows, kv = HEADS * HEAD_DIM, GROUPS * HEAD_DIM
    shapes = {
        "self_attn.q_proj": (rows, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, rows),
        "mlp.gate_proj": (NEURONS, WIDTH),
        "mlp.up_proj": (NEURONS, WIDTH),
        "mlp.down_proj": (WIDTH, NEURONS),
    }
    data = {
        "model_type": "llama",
        "prefix": "model.layers",
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "num_groups": GROUPS,
        "num_neurons": NEURONS,
        "head_dim": HEAD_DIM,
        "num_parameters": num_parameters,
        "shapes": shapes,
        "parameters": {f"{name}.weight": a * b for name, (a, b) in shapes.items()},
    }
    return Anatomy.from_dict(data)


def score_map(**arrays: np.ndarray | None) -> ScoreMap:
    rng = np.random.default_rng(0)
    drawn = {
        "layer": rng.lognormal(0, 1, LAYERS),
        "head": rng.lognormal(0, 1, (LAYERS, HEADS)),
        "neuron": rng.lognormal(0, 1, (LAYERS, NEURONS)),
    }
    meta = {"method": "attribution", "retain": {"name": "self"}, "combine": "ratio"}
    return ScoreMap(anatomy(), **{**drawn, **arrays}, meta=meta)


RUN: dict[str, Any] = {
    "kind": "run",
    "version": 1,
    "name": "quickstart",
    "command": "guided-ft run quickstart seed=0",
    "model": "smollm2-135m-instruct",
    "task": {"name": "chain_sum", "train": 800, "test": 100, "hash": "ab12", "sample": {"prompt": "42 + 25 ="}},
    "method": "attribution",
    "retain": "self",
    "mode": "slice",
    "trainer": "sft",
    "budget": "0.1%",
    "trainable": 132_100,
    "total": 134_515_008,
    "selected": {"layer": 0, "head": 1, "neuron": 34},
    "before": {"exact_match": 0.0, "examples": 100},
    "after": {"exact_match": 90.0, "examples": 100},
    "control": {
        "random": {
            "trainable": 132_100,
            "after": {"exact_match": 40.0, "examples": 100},
            "retention": {"loss": 3.75, "kl": 0.031},
            "loss": [[1, 3.3], [2, 3.1], [3, 2.95]],
            "seconds": 61.0,
        }
    },
    "retention": {"text": "self", "before": {"loss": 3.7, "kl": 0.0}, "after": {"loss": 3.72, "kl": 0.013}},
    "loss": [[1, 3.2], [2, 3.0], [3, 2.5]],
    "frozen": {"identical": 272, "total": 272},
    "reload": {"max_difference": 0.0},
    "checks": [{"name": "frozen tensors are bit-identical", "ok": True, "detail": "272 of 272"}],
    "seconds": {"load": 2.0, "localize": 9.5, "train": 50.0},
    "peak_bytes": 3_000_000_000,
    "versions": {"guided_ft": "0.1.0", "torch": "2.13.0"},
    "machine": "2 x CPU",
    "seed": 0,
    "samples": [{"prompt": "42 + 25 =", "expected": "67", "before": "The answer", "after": "67", "control": "66"}],
}


def a_run(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(RUN) | changes


def make(folder: Path, run: dict[str, Any] | None = None, scores: ScoreMap | None = None, control: bool = True) -> Path:
    """Fill a run folder; returns it."""
    scores = scores or score_map()
    kinds = [kind for kind in ("head", "neuron") if kind in scores.kinds]
    write_json(folder / "run.json", run or RUN)
    scores.save(folder / "scores.safetensors")
    select(scores, "4%", kinds).save(folder / "selection.json")
    if control:
        select(scores, "4%", kinds, "random", seed=1).save(folder / "control" / "selection.json")
    return folder


class Page(HTMLParser):
    """A page as a browser would take it apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: set[str] = set()
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._texts: list[str] = []
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self._texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids |= {value or "" for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        last = self.tags[-1] if self.tags else ""
        (self.scripts if last == "script" and data.strip() else self.styles if last == "style" else self._texts).append(
            data
        )

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """What plotly is given, by the id of the figure."""
        listed = re.search(r"const figures = (\[.*\]);\n", self.scripts[-1])
        assert listed, "the page gives plotly nothing to draw"
        return {figure["id"]: figure for figure in json.loads(listed[1])}
