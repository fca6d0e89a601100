"""Ways that choose parts of a model and train only those, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from guided_ft.system.files import Json

from .ways import Options, Way


@dataclass(frozen=True)
class TopLayers(Way):
    """The last layers, frozen below."""

    layers: int = 2

    def about(self) -> Json:
        return super().about() | {"mode": "freeze", "kinds": ["layer"]}


@dataclass(frozen=True)
class Located(Way):
    """Localize, select, and train only that.

    Args:
        retain: ``self`` or None: what is to be kept, besides.
        strategy: of ``select``; ``random`` looks at no scores, so that it needs no map.
        first: leave this share of the layers, from the bottom, alone.
        budget: one of its own, instead of the cell's.
        within: choose this percentage of the model, and train it as products of the rank that the cell's budget buys.
        other_task: take the map of the suite's next problem.
        examples: to localize with; None: the suite's.
        texts: that the model samples, where something is to be kept; None: as many as ``localize`` asks for.
        options: of the method.
    """

    method: str = "gradient"
    retain: str | None = "self"
    strategy: str = "top"
    mode: str = "slice"
    kinds: tuple[str, ...] = ("head", "neuron")
    first: float = 0.0
    budget: str | None = None
    within: float | None = None
    other_task: bool = False
    examples: int | None = None
    texts: int | None = 32
    options: Options = ()

    @property
    def needs_map(self) -> bool:
        return self.strategy != "random"

    @property
    def is_located(self) -> bool:
        return True

    @property
    def own_mode(self) -> str:
        return self.mode

    @property
    def form(self) -> str:
        return "low rank" if self.within is not None else "" if self.mode == "slice" else self.mode

    def about(self) -> Json:
        method = self.method if self.needs_map else None
        return {"mode": self.mode, "method": method, "strategy": self.strategy, "kinds": list(self.kinds)}


@dataclass(frozen=True)
class Sums(Located):
    """Slices as the recipe ``sums`` has them, read when it is first wanted; they were the default before directions.

    ``kinds`` empty: the recipe's. Its first layer is one of SmolLM2's 30: the same share of any model's layers is left
    alone.
    """

    kinds: tuple[str, ...] = ()

    @property
    def resolved(self) -> Located:
        from guided_ft.recipe.recipe import Recipe

        recipe = Recipe.load("sums")
        return Located(
            method=recipe.localize.method,
            strategy=self.strategy,
            mode=self.mode,
            kinds=self.kinds or tuple(recipe.select.kinds),
            first=recipe.select.first_layer / 30,
            examples=recipe.localize.examples,
            texts=None,
        )

    def about(self) -> Json:
        return self.resolved.about()


@dataclass(frozen=True)
class Directed(Way):
    """Map directions, spend the budget on them, and train only along those.

    Args:
        strategy: of ``select_directions``.
        retain: what the map holds the task against; None: nothing.
        lam: as in ``localize_directions``.
    """

    strategy: str = "top"
    retain: str | None = "self"
    lam: float = 0.01

    @property
    def form(self) -> str:
        return "subspace"

    def about(self) -> Json:
        return {"mode": "subspace", "method": "directions", "strategy": self.strategy, "kinds": ["direction"]}


@dataclass(frozen=True)
class LateDirected(Directed):
    """Directions of the upper layers: all that lies below them is computed once and kept.

    Args:
        first: leave this share of the layers, from the bottom, alone.
    """

    first: float = 0.4


@dataclass(frozen=True)
class MovingDirected(Directed):
    """Directions that move, too.

    Args:
        share: of the rate of ``B``, at which ``A`` is trained.
    """

    share: float = 0.01


@dataclass(frozen=True)
class RedrawnDirected(Directed):
    """Directions that are located anew while it trains.

    Args:
        maps: that are made, at equal distances.
    """

    maps: int = 2


@dataclass(frozen=True)
class OutwardDirected(Directed):
    """Directions on both sides: no output that text which must be kept reads is changed.

    Args:
        energy: share of what that text says of a layer's outputs, as squared gradients, that is left alone.
    """

    energy: float = 0.5


@dataclass(frozen=True)
class AsideLocated(Located):
    """Slices whose every step is projected off gradients of text that must be kept.

    Args:
        gradients: of a batch each.
        every: steps after which they are taken anew.
    """

    gradients: int = 8
    every: int = 20
