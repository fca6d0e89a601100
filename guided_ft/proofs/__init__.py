"""Proofs that a family's map is true and that everything computes alike, on a tiny random model."""

from .proving import prove

__all__ = ["prove"]
