"""``ScoreMap``: what a scorer answers, as arrays with their provenance. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from ..anatomy import KINDS, Anatomy, Component
from ..errors import GuidedError
from ..system.arrays import beside, read_arrays, write_arrays
from ..system.files import MEND, Json, read_json, write_json
from .correlation import pearson, spearman
from .telling import bars, counted, made, ranked


class Texts(TypedDict):
    """A set of texts, by its name and by a digest."""

    name: str
    hash: str
    examples: int


class Told(Texts, total=False):
    """A set of texts, and what was asked about them; of directions always the loss."""

    metric: str


class Meta(TypedDict, total=False):
    """Where a map comes from; a method may add keys of its own.

    ``seen``: digests of the task's texts. ``seconds`` and ``passes``: what it took, the seconds with all methods that
    it was made ``together_with``. ``verified``: by kind, how the map compares with exact ablation. ``of``: of a
    combination, the maps' own. ``depth``, ``never``: of the lens. ``lam``, ``max_rank``, ``exact`` and ``groups`` of
    layers that were worked out together: of directions.
    """

    method: str
    options: Json
    retain: Told | None
    task: Told
    seen: str
    model: str
    seed: int
    passes: int
    seconds: float
    combine: str
    together_with: list[str]
    verified: dict[str, Json]
    of: list[Meta]
    depth: list[float]
    never: float
    lam: float
    max_rank: int
    exact: bool
    groups: int


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """Scores of the components of one model for one task.

    Args:
        anatomy: whose components were scored.
        layer: float32 ``[L]``, or None if layers were not scored.
        head: float32 ``[L, H]``, or None.
        neuron: float32 ``[L, N]``, or None; with experts, neuron ``n`` of expert ``e`` is at ``e * (N / E) + n``.
        meta: provenance: method, options, model, data hash, retain, seconds, passes.
    """

    anatomy: Anatomy
    layer: np.ndarray | None = None
    head: np.ndarray | None = None
    neuron: np.ndarray | None = None
    meta: Meta = field(default_factory=lambda: Meta())

    def __post_init__(self) -> None:
        a = self.anatomy
        shapes = {
            "layer": (a.num_layers,),
            "head": (a.num_layers, a.num_heads),
            "neuron": (a.num_layers, a.num_neurons),
        }
        for kind, shape in shapes.items():
            array = getattr(self, kind)
            if array is None:
                continue
            array = np.asarray(array, dtype=np.float32)
            if array.shape != shape:
                raise GuidedError(f"scores.{kind}: shape {array.shape}, but this model needs {shape}")
            if not np.isfinite(array).all():
                where = np.argwhere(~np.isfinite(array))[0].tolist()
                raise GuidedError(f"scores.{kind}: not finite at {where} (check the data and the model's dtype)")
            object.__setattr__(self, kind, array)
        object.__setattr__(self, "meta", dict(self.meta or {}))

    @classmethod
    def of_arrays(
        cls, anatomy: Anatomy, arrays: dict[str, np.ndarray], meta: Mapping[str, object] | None = None
    ) -> ScoreMap:
        """Make a map from arrays by kind; layers may come as ``[L, 1]``."""
        return cls(
            anatomy,
            layer=arrays["layer"].reshape(-1) if "layer" in arrays else None,
            head=arrays.get("head"),
            neuron=arrays.get("neuron"),
            meta=cast("Meta", meta or {}),
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that were scored."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def sizes(self) -> dict[str, int]:
        """How many of each kind were scored."""
        return {kind: int(self.of(kind).size) for kind in self.kinds}

    def of(self, kind: str) -> np.ndarray:
        """Return the array of a kind. Raises GuidedError if that kind was not scored."""
        if kind not in self.kinds:
            raise GuidedError(f"kinds: this map has no scores for {kind!r} (it has: {', '.join(self.kinds)})")
        return getattr(self, kind)

    def score(self, component: Component) -> float:
        """The score of a component. Raises GuidedError for one that the model lacks, or whose kind was not scored."""
        array = self.of(self.anatomy.check(component).kind)
        place = (component.layer, self.anatomy.position(component))
        return float(array[component.layer] if component.kind == "layer" else array[place])

    def top(self, kind: str, k: int = 10) -> list[tuple[Component, float]]:
        """Return the ``k`` highest-scored components of a kind, best first; ties by name."""
        flat = self.of(kind).ravel()
        size = self.anatomy.size(kind)
        order = np.argsort(-flat, kind="stable")
        order = order[np.isin(order // size, self.anatomy.layers_of(kind))][:k]
        return [(self.anatomy.component(kind, int(i) // size, int(i) % size), float(flat[i])) for i in order]

    def compare(self, other: ScoreMap, kind: str, k: int = 20) -> dict[str, float]:
        """Return Spearman, Pearson and the overlap of the top ``k`` (a share, 0 to 1) with another map.

        Raises GuidedError for a map of another model.
        """
        mine, theirs = self.of(kind).ravel(), other.of(kind).ravel()
        if mine.shape != theirs.shape:
            raise GuidedError(f"compare: {mine.size} against {theirs.size} {kind}s (the maps are of different models)")
        if self.anatomy != other.anatomy:
            raise GuidedError("compare: the maps are of different models")
        k = max(1, min(k, mine.size))
        best = [set(np.argsort(-a, kind="stable")[:k].tolist()) for a in (mine, theirs)]
        return {
            "spearman": spearman(mine, theirs),
            "pearson": pearson(mine, theirs),
            "overlap": len(best[0] & best[1]) / k,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``path`` (safetensors) and, beside it, the provenance as ``.json`` (for ``.safetensors``, or added)."""
        data = {"kind": "scores", "version": 1, "anatomy": self.anatomy.to_dict(), "meta": self.meta}
        write_json(beside(path), data)
        write_arrays(path, {kind: getattr(self, kind) for kind in self.kinds})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoreMap:
        """Read what ``save`` wrote. Raises GuidedError for a file that is not there, damaged, or something else."""
        told, before = beside(path), Path(path).with_suffix(".json")
        # Maps that were written before the suffix was added to other names.
        data = read_json(told if told.exists() or not before.exists() else before, "scores")
        arrays = read_arrays(path)
        unknown = set(arrays) - set(KINDS)
        if unknown:
            raise GuidedError(f"{path}: unknown array {sorted(unknown)[0][:80]!r} ({MEND})")
        if not isinstance(data.get("anatomy"), dict) or not isinstance(data.get("meta"), dict):
            raise GuidedError(f"{path}: its .json lacks 'anatomy' or 'meta' ({MEND})")
        return cls(Anatomy.from_dict(data["anatomy"]), meta=data["meta"], **arrays)

    def __repr__(self) -> str:
        sizes = counted(self.sizes)
        return f"ScoreMap({self.meta.get('method', '?')}: {sizes} of {self.anatomy.model_type})"

    def __str__(self) -> str:
        """How it was made, and of each kind a bar a layer (the mean, from L0 on) and the five best."""
        lines = [made(self.meta, self.sizes)]
        for kind in self.kinds:
            values = self.of(kind)
            lines.append(f"  {kind:<8}{bars(values.reshape(len(values), -1).mean(1))}")
            lines.append(" " * 10 + ranked(self.top(kind, 5)))
        return "\n".join(lines)
