"""Scores of components, and the choice that a budget buys."""

from .budget import select as select
from .scoremap import ScoreMap as ScoreMap
from .selection import Selection as Selection
