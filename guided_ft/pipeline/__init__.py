"""A recipe from the first question to the report. Data is read without torch, so ``run`` is loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.lazy import lazily

if TYPE_CHECKING:
    from .pipeline import run as run

__getattr__ = lazily(__name__, {"run": "pipeline"})
