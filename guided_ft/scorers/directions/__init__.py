"""Directions: where, at the input of a linear layer, a task has much to win and retained text little to lose."""

from .localize import localize_directions as localize_directions
