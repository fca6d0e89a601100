"""Statistics of retained text on disk, by model and text: a second task on the same model pays only for its own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import GuidedError
from ...system import processes
from ...system.arrays import read_arrays, write_arrays
from ...system.files import digest

logger = logging.getLogger(__name__)

MAX_ONE, MAX_ALL = 2 << 30, 6 << 30
"""Bytes on disk: statistics of one model and text that take more are computed anew, and of all of them those that were
not read for longest make way."""


class Kept:
    """Second moments by layer, one file each, in a folder that is named after the model and the text.

    Args:
        folder: that of all models and texts; None keeps nothing.
        model: fingerprint and settings of the model.
        text: hash of the text.
        total: bytes of all statistics of the model.
    """

    def __init__(self, folder: str | Path | None, model: object, text: str, total: int) -> None:
        self.folder = Path(folder) / digest("moments", 1, model, text) if folder and total <= MAX_ONE else None

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
        with contextlib.suppress(OSError):
            os.utime(self.folder)
        return found

    def save(self, moments: dict[str, torch.Tensor]) -> None:
        if self.folder is None or not processes.is_first():
            return
        try:
            for name, moment in moments.items():
                write_arrays(self._path(name), {"moment": moment.cpu().numpy()})
            self._make_room()
        except OSError as error:
            # They save time, and no more.
            logger.warning("directions: no room to keep statistics in %s (%s)", self.folder, error.strerror)
            self.folder = None

    def _make_room(self) -> None:
        """Remove the statistics that were not read for longest, but never these."""
        assert self.folder is not None
        others = [f for f in self.folder.parent.iterdir() if re.fullmatch(r"[0-9a-f]{16}", f.name) and f != self.folder]
        left = MAX_ALL - _size(self.folder)
        for folder in sorted(others, key=lambda f: f.stat().st_mtime, reverse=True):
            left -= _size(folder)
            if left < 0:
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
