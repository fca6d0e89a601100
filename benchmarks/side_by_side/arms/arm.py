"""``Arm``: one way of training that is compared, with all that tables and plots say of it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from guided_ft.system.files import Json, digest

from .ways import Way

Rates = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        label: its name in tables and legends.
        way: how it trains.
        rates: the learning rates of its sweep, by suite, or by the one whose model a suite of fronts takes; None: no
            sweep, but what a recipe takes (``rule``).
        help: one line.
        colour: in plots; empty: that of its family, which is the arm whose name is its own up to the first colon.
        budgeted: it trains as many parameters as the cell's budget says.
        drawn: it draws at random, so it is run with several draws.
        control: a located choice of the same size must beat it to have been worth the locating.
        placed: the random choice that is placed as this one is: as late, as many a layer, or at low rank too.
    """

    label: str
    way: Way
    rates: Rates | None
    help: str
    colour: str = ""
    budgeted: bool = True
    drawn: bool = False
    control: bool = False
    placed: str = ""

    @property
    def is_located(self) -> bool:
        """Whether its parts were found by a map."""
        return self.way.is_located and not self.control

    @property
    def is_given_its_rate(self) -> bool:
        """Whether it takes the rate that a recipe takes by itself."""
        return self.rates is None

    def about(self, settings: Json) -> Json:
        """What its rows say of it, ``configuration`` being a digest of all of it and of a suite's ``settings``."""
        whole = {"way": self.way.config(), "suite": settings}
        return self.way.about() | {"control": self.control, "configuration": digest(whole)}
