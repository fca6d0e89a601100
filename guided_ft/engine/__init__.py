"""What makes a step cheap: the head and the lower layers do only what training needs."""

from .engine import Engine

__all__ = ["Engine"]
