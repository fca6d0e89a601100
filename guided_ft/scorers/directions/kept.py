"""Statistics of retained text on disk, by model and text: a second task on the same model pays only for its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import GuidedError
from ...system import processes
from ...system.files import digest, read_arrays, write_arrays

MAX_TOTAL = 2 << 30
"""Bytes that the statistics of one model and text may take on disk; those of larger models are computed anew."""


class Kept:
    """Second moments by layer, one file each, in a folder that is named after the model and the text.

    Args:
        folder: that of all models and texts; None keeps nothing.
        model: fingerprint of the model.
        text: hash of the text.
        total: bytes of all statistics of the model.
    """

    def __init__(self, folder: str | Path | None, model: object, text: str, total: int) -> None:
        self.folder = Path(folder) / digest("moments", 1, model, text) if folder and total <= MAX_TOTAL else None

    def load(self, anatomy: Anatomy, names: list[str]) -> dict[str, torch.Tensor] | None:
        """All of these layers' moments, or None if one of them is missing or damaged."""
        found = self._read(anatomy, names)
        # All processes or none: the passes are shared.
        everywhere = processes.everywhere(found is not None)
        return found if everywhere else None

    def _read(self, anatomy: Anatomy, names: list[str]) -> dict[str, torch.Tensor] | None:
        if self.folder is None or not all(self._path(name).is_file() for name in names):
            return None
        found = {}
        for name in names:
            size = anatomy.outputs_inputs(anatomy.relative(name))[1]
            try:
                moment = read_arrays(self._path(name)).get("moment")
            except GuidedError:
                return None
            if moment is None or moment.shape != (size, size) or moment.dtype != np.float32:
                return None
            if not np.isfinite(moment).all():
                return None
            found[name] = torch.from_numpy(moment)
        return found

    def save(self, moments: dict[str, torch.Tensor]) -> None:
        if self.folder is None or not processes.is_first():
            return
        for name, moment in moments.items():
            write_arrays(self._path(name), {"moment": moment.cpu().numpy()})

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"
