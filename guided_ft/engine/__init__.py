"""What makes a step cheap: the head and the lower layers do only what training needs."""

from .engine import Engine, close_left_open

__all__ = ["Engine", "close_left_open"]
