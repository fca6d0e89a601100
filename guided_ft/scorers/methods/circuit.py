"""``Edges``: the scores of connections between components, and the circuit that is left of them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...anatomy import Anatomy
from ...errors import GuidedError


@dataclass(frozen=True, eq=False)
class Edges:
    """Who writes what for whom.

    Sources, in order: the embeddings, then of each layer its heads and its MLP. Targets: of each layer the queries of
    its heads, the keys and the values of its groups, and its MLP; at last the logits.

    Args:
        anatomy: of the model.
        scores: ``[sources, targets]``, the effect of replacing what the source writes, at the target only (signed);
            0 where no edge is.
        exists: ``[sources, targets]``, where an edge is.
    """

    anatomy: Anatomy
    scores: np.ndarray
    exists: np.ndarray

    @staticmethod
    def num_sources(anatomy: Anatomy) -> int:
        return 1 + anatomy.num_layers * (anatomy.num_heads + 1)

    @staticmethod
    def num_targets(anatomy: Anatomy) -> int:
        return anatomy.num_layers * Edges.width(anatomy) + 1

    @staticmethod
    def width(anatomy: Anatomy) -> int:
        """Targets in one layer."""
        return anatomy.num_heads + 2 * anatomy.num_groups + 1

    @staticmethod
    def possible(anatomy: Anatomy, parallel: bool) -> np.ndarray:
        """Where edges are: to whatever reads the residual stream after the source has written to it."""
        h, wide = anatomy.num_heads, Edges.width(anatomy)
        exists = np.zeros((Edges.num_sources(anatomy), Edges.num_targets(anatomy)), bool)
        exists[0] = exists[:, -1] = True
        for layer in range(anatomy.num_layers):
            first = 1 + layer * (h + 1)
            exists[first : first + h + 1, (layer + 1) * wide :] = True
            if not parallel:
                exists[first : first + h, (layer + 1) * wide - 1] = True
        return exists

    @property
    def sources(self) -> list[str]:
        a = self.anatomy
        return ["embed"] + [f"L{i}.{n}" for i in range(a.num_layers) for n in (*_count("H", a.num_heads), "MLP")]

    @property
    def targets(self) -> list[str]:
        a = self.anatomy
        names = [
            *(f"{head}.q" for head in _count("H", a.num_heads)),
            *(f"{group}.{part}" for part in "kv" for group in _count("G", a.num_groups)),
            "MLP",
        ]
        return [f"L{i}.{name}" for i in range(a.num_layers) for name in names] + ["logits"]

    def top(self, count: int) -> list[tuple[str, str, float]]:
        """The edges with the largest effects: (source, target, score)."""
        chosen = np.argwhere(self.kept(count))
        order = sorted(chosen.tolist(), key=lambda e: (-abs(self.scores[e[0], e[1]]), e))
        sources, targets = self.sources, self.targets
        return [(sources[s], targets[t], float(self.scores[s, t])) for s, t in order]

    def kept(self, keep: float) -> np.ndarray:
        """``[sources, targets]``: the edges with the largest effects.

        Args:
            keep: how many, or as a float which share of them (up to 1.0).
        """
        total = int(self.exists.sum())
        # As budgets are read: 1.0 is everything, 1 is one edge.
        is_share = keep < 1 or (isinstance(keep, float) and keep == 1)
        count = round(keep * total) if is_share else int(keep)
        if isinstance(keep, bool) or not 0 < keep <= total or count < 1 or (count != keep and not is_share):
            raise GuidedError(
                f"keep: {keep!r} leaves none or more than all of {total} edges, or no whole number (write a share up "
                "to 1.0)"
            )
        size = np.where(self.exists, np.abs(self.scores), -1).ravel()
        mask = np.zeros(size.size, bool)
        mask[np.argsort(-size, kind="stable")[:count]] = True
        return mask.reshape(self.scores.shape)

    def circuit(self, keep: float) -> np.ndarray:
        """``[sources, targets]``: of the kept edges, those on a way from the embeddings to the logits."""
        kept = self.kept(keep)
        owner = self._owners()
        reached = np.zeros(len(kept), bool)
        reached[0] = True
        needed = np.zeros(len(kept), bool)
        needed_targets = np.zeros(kept.shape[1], bool)
        needed_targets[-1] = True
        # Sources are in the order of the forward pass, so that one sweep each way is enough.
        for s in range(1, len(kept)):
            reached[s] = bool((kept[:s] & reached[:s, None] & owner[s]).any())
        for s in reversed(range(len(kept))):
            needed[s] = bool((kept[s] & needed_targets).any())
            needed_targets |= owner[s] & needed[s]
        return kept & reached[:, None] & needed[:, None] & needed_targets

    def nodes(self, keep: float) -> dict[str, np.ndarray]:
        """Scores of components: the size of the effects on their outgoing edges in the circuit.

        Heads ``[layers, heads]``; layers ``[layers]``: of their heads and their MLP together.
        """
        out = (np.abs(self.scores) * self.circuit(keep)).sum(1)[1:]
        table = out.reshape(self.anatomy.num_layers, self.anatomy.num_heads + 1)
        return {"layer": table.sum(1), "head": table[:, :-1]}

    def _owners(self) -> np.ndarray:
        """``[sources, targets]``: which targets are inputs of a source (a group's keys and values of all its heads)."""
        a, wide = self.anatomy, self.width(self.anatomy)
        owner = np.zeros(self.scores.shape, bool)
        for layer in range(a.num_layers):
            first, at = 1 + layer * (a.num_heads + 1), layer * wide
            for head in range(a.num_heads):
                group = head // a.heads_per_group
                owner[first + head, [at + head, at + a.num_heads + group, at + a.num_heads + a.num_groups + group]] = (
                    True
                )
            owner[first + a.num_heads, at + wide - 1] = True
        return owner


def _count(letter: str, number: int) -> list[str]:
    return [f"{letter}{i}" for i in range(number)]
