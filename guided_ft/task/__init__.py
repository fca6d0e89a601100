"""``Task``: a question to a model. The readers of its rows import no torch, so the name is loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.lazy import lazily

if TYPE_CHECKING:
    from .task import Task as Task

__getattr__ = lazily(__name__, {"Task": "task"})
