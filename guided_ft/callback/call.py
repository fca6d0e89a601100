"""``TrainerCall``: the call of ``Trainer.train`` that a callback is in.

A trainer tells its callbacks neither what it resumes from nor that a training has ended by an error or Control-C; its
call on the stack shows both.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from transformers import Trainer


class TrainerCall:
    """The innermost call of ``Trainer.train`` at this moment; of other training loops nothing is known.

    Attributes:
        resumed_from: the checkpoint that it goes on from, if there is one.
        trainer: the trainer that is called.
    """

    def __init__(self) -> None:
        code = inspect.unwrap(Trainer.train).__code__
        self._thread = threading.get_ident()
        self._frame = next((frame for frame in _stack() if frame.f_code is code), None)
        found = self._frame.f_locals.get("resume_from_checkpoint") if self._frame else None
        self.resumed_from = Path(found) if isinstance(found, (str, os.PathLike)) else None
        self.trainer: Trainer | None = self._frame.f_locals.get("self") if self._frame else None

    def over(self) -> bool:
        """Whether it has ended, in whatever way. False where that cannot be seen: in a training loop that is not the
        Trainer's, and from another thread."""
        if self._frame is None or threading.get_ident() != self._thread:
            return False
        return all(frame is not self._frame for frame in _stack())


def trainer_here() -> Trainer | None:
    """The trainer that calls at this moment, as in its constructor; None if it is another kind of caller."""
    found = (frame.f_locals.get("self") for frame in _stack())
    return next((trainer for trainer in found if isinstance(trainer, Trainer)), None)


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
