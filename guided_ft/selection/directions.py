"""``DirectionMap``: input directions of linear layers with scores, and their provenance. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..anatomy import Anatomy
from ..errors import GuidedError
from ..system.arrays import beside, read_arrays, write_arrays
from ..system.files import MEND, digest, read_json, write_json
from .scoremap import Meta, ScoreMap
from .telling import bars, made, ranked


@dataclass(frozen=True, eq=False)
class DirectionMap:
    """Per linear layer, the input directions ``a`` along which a task has most to win and retained text little to lose.

    A layer ``y = W x`` that is trained as ``W + B A``, with the directions as the rows of a fixed ``A``, answers a
    text's change of ``A x`` alone.

    Args:
        anatomy: of the model.
        bases: float32 ``[k, in]`` by the full name of a layer: directions of length 1, best first.
        scores: float32 ``[k]`` by name, not negative and not rising.
        rows: float32 ``[out]`` by name: what each output has in the scores of all directions of its layer, as whose sum
            they come out.
        meta: provenance: task, retain, lambda, model, seconds, passes.
    """

    anatomy: Anatomy = field(repr=False)
    bases: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray]
    meta: Meta = field(default_factory=lambda: Meta())

    def __post_init__(self) -> None:
        if not self.bases:
            raise GuidedError("directions: the map is empty")
        odd = sorted(set(self.bases) ^ set(self.scores) | set(self.bases) ^ set(self.rows))
        if odd:
            raise GuidedError(f"directions: {odd[0]} has not all of a basis, scores and rows (make the map again)")
        for name in self.bases:
            check_basis(self.anatomy, name, self.bases[name])
            _check_scores(name, self.scores[name], len(self.bases[name]))
            _check_numbers(name, "rows", self.rows[name], self.outputs(name))
        for part in ("bases", "scores", "rows"):
            object.__setattr__(self, part, in_order(self.anatomy, getattr(self, part)))

    # -- reading ----------------------------------------------------------------------------------------------------
    @property
    def modules(self) -> tuple[str, ...]:
        """The layers of the map, from the first to the last."""
        return tuple(self.bases)

    def outputs(self, module: str) -> int:
        """What one direction of a layer costs: the column of ``B`` that trains with it has so many numbers."""
        return self.anatomy.outputs(module)

    def top(self, k: int = 10) -> list[tuple[str, int, float]]:
        """The ``k`` directions with the highest score per parameter: layer, number in its basis, score."""
        pairs = [(-float(s) / self.outputs(m), m, i) for m in self.modules for i, s in enumerate(self.scores[m])]
        return [(m, i, float(self.scores[m][i])) for _, m, i in sorted(pairs)[:k]]

    def component_scores(self) -> ScoreMap:
        """The scores added up over the layers, heads and neurons that they lie in.

        A head has the rows of its queries and its share of its group's keys and values, a neuron those of gate and up;
        the out and down projections count for their layer alone.
        """
        a = self.anatomy
        f = a.family
        layer, head, neuron = np.zeros(a.num_layers), None, None
        for name, rows in self.rows.items():
            layer[a.layer_of(name)] += rows.sum(dtype=np.float64)
        if "head" in f.kinds:
            head = np.zeros((a.num_layers, a.num_heads))
        for part in f.attention:
            repeats = 1 if part == f.query else a.heads_per_group
            index = a.head_rows(part)
            for i in range(a.num_layers):
                found = self.rows.get(a.module(i, part.module))
                if found is not None and head is not None:
                    head[i] += np.repeat(found[index].sum(1) / repeats, repeats)
        if "neuron" in f.kinds and not a.num_experts:
            neuron = np.zeros((a.num_layers, a.num_neurons))
            for part in f.up:
                for i in range(a.num_layers):
                    found = self.rows.get(a.module(i, part.module))
                    if found is not None:
                        neuron[i] += found[a.neuron_rows(part)]
        return ScoreMap(a, layer, head, neuron, self.meta)

    def compare(self, other: DirectionMap, k: int = 8) -> dict[str, float]:
        """How far the spaces of the first ``k`` directions agree, over the layers that both maps have.

        Returns:
            ``overlap``: mean squared cosine of the principal angles (1: the same spaces; ``k / in`` by chance), and
            ``angle``: the largest of all principal angles, in degrees.
        """
        shared = [name for name in self.modules if name in other.bases]
        if self.anatomy != other.anatomy or not shared:
            raise GuidedError("compare: the maps are of different models, or have no layer in common")
        overlaps, widest = [], 0.0
        for name in shared:
            count = min(k, len(self.bases[name]), len(other.bases[name]))
            mine, theirs = (np.linalg.qr(m.bases[name][:count].T.astype(np.float64))[0] for m in (self, other))
            inside = mine.T @ theirs
            overlaps.append(float((inside**2).sum()) / count)
            # The sine of the largest angle: its cosine would lose small angles to rounding.
            sine = float(np.linalg.norm(theirs - mine @ inside, 2))
            widest = max(widest, math.degrees(math.asin(min(1.0, sine))))
        return {"overlap": sum(overlaps) / len(overlaps), "angle": widest}

    @property
    def hash(self) -> str:
        """Digest of the directions and scores."""
        return digest(
            *(part for m in self.modules for part in (m.encode(), self.bases[m], self.scores[m], self.rows[m]))
        )

    # -- files ------------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``path`` (safetensors) and, beside it, the provenance as ``.json``."""
        data = {"kind": "directions", "version": 1, "anatomy": self.anatomy.to_dict(), "meta": self.meta}
        write_json(beside(path), data)
        parts = {"basis": self.bases, "scores": self.scores, "rows": self.rows}
        write_arrays(path, {f"{name}.{part}": a for part, arrays in parts.items() for name, a in arrays.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DirectionMap:
        """Read what ``save`` wrote. Raises GuidedError for anything else."""
        data = read_json(beside(path), "directions")
        if not isinstance(data.get("anatomy"), dict) or not isinstance(data.get("meta"), dict):
            raise GuidedError(f"{path}: its .json lacks 'anatomy' or 'meta' ({MEND})")
        parts: dict[str, dict[str, np.ndarray]] = {"basis": {}, "scores": {}, "rows": {}}
        for name, array in read_arrays(path).items():
            module, _, part = name.rpartition(".")
            if part not in parts:
                raise GuidedError(f"{path}: unknown array {name[:80]!r} ({MEND})")
            parts[part][module] = array
        bases, scores, rows = parts.values()
        return cls(Anatomy.from_dict(data["anatomy"]), bases, scores, rows, data["meta"])

    def __repr__(self) -> str:
        count = sum(map(len, self.bases.values()))
        retain = self.meta.get("retain")
        # A file may hold anything.
        sides = f"over {retain.get('name')}" if isinstance(retain, dict) else "one-sided"
        return f"DirectionMap({sides}: {count:,} directions in {len(self.bases)} layers of {self.anatomy.model_type})"

    def __str__(self) -> str:
        """How it was made, a bar for the sum of each layer (from L0 on), and the five layers that have most."""
        a = self.anatomy
        sums = {name: float(scores.sum(dtype=np.float64)) for name, scores in self.scores.items()}
        layer = np.zeros(a.num_layers)
        for name, total in sums.items():
            layer[a.layer_of(name)] += total
        best = sorted(sums, key=lambda name: -sums[name])[:5]
        told = ranked((f"L{a.layer_of(name)} {a.relative(name)}", sums[name]) for name in best)
        counts = {"direction": sum(map(len, self.scores.values()))}
        return f"{made(self.meta, counts)}\n  layer   {bars(layer)}\n          {told}"


def check_linear(anatomy: Anatomy, name: str) -> None:
    """Raise GuidedError unless this is the full name of a linear layer in one of the model's layers."""
    known = {anatomy.module(layer, rel) for layer in range(anatomy.num_layers) for rel in anatomy.names_in(layer)}
    if name not in known:
        raise GuidedError(
            f"directions: this model has no layer {name!r:.100} (name one such as {min(known)}, or make the file again)"
        )
    if anatomy.family.of_experts(anatomy.relative(name)):
        raise GuidedError(f"directions: {name} belongs to experts, which share no input")


def in_order(anatomy: Anatomy, by_name: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From the first to the last layer, and as its family lists its projections."""
    projections = list(anatomy.shapes)
    order = sorted(by_name, key=lambda name: (anatomy.layer_of(name), projections.index(anatomy.relative(name))))
    return {name: by_name[name] for name in order}


def check_basis(anatomy: Anatomy, name: str, basis: np.ndarray) -> None:
    """Raise GuidedError unless the rows are directions at the input of a linear layer."""
    check_linear(anatomy, name)
    inputs = anatomy.outputs_inputs(anatomy.relative(name))[1]
    if basis.dtype != np.float32:
        raise GuidedError(f"directions of {name}: expected float32, got {basis.dtype} (make the map again)")
    if basis.ndim != 2 or basis.shape[1] != inputs or not 1 <= len(basis) <= inputs:
        raise GuidedError(
            f"directions of {name}: shape {basis.shape}, but the layer needs [k, {inputs}] (make the map again)"
        )
    if not np.isfinite(basis).all():
        raise GuidedError(f"directions of {name}: not finite (check the data and the model's dtype)")
    if np.abs(np.linalg.norm(basis, axis=1) - 1).max() > 1e-3:
        raise GuidedError(f"directions of {name}: not of length 1 (make the map again)")


def _check_scores(name: str, scores: np.ndarray, count: int) -> None:
    _check_numbers(name, "scores", scores, count)
    if (np.diff(scores) > 0).any():
        raise GuidedError(f"scores of {name}: they rise, but the best direction comes first (make the map again)")


def _check_numbers(name: str, what: str, values: np.ndarray, count: int) -> None:
    if values.dtype != np.float32 or values.shape != (count,):
        raise GuidedError(
            f"{what} of {name}: expected float32 ({count},), got {values.dtype} {values.shape} (make the map again)"
        )
    if not np.isfinite(values).all() or values.min() < 0:
        raise GuidedError(f"{what} of {name}: not finite, or negative (make the map again)")
