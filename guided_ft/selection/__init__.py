"""Scores of components, and the choice that a budget buys."""

from .budget import select as select
from .directions import DirectionMap as DirectionMap
from .scoremap import ScoreMap as ScoreMap
from .selection import Selection as Selection
from .spend import select_directions as select_directions
from .subspace import Subspace as Subspace
