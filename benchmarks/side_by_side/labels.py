"""Names, colours and markers of the arms: data only. An arm that is not listed is drawn in its family's colour."""

from __future__ import annotations

from collections.abc import Iterable

from .compare import CONTROLS

LABELS = {
    "base": "frozen base",
    "full": "full fine-tuning",
    "lora": "LoRA, all linear layers",
    "lora:qv": "LoRA, q and v",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "shira": "SHiRA",
    "ia3": "IA3",
    "full:mixed": "full fine-tuning, mixed",
    "lisa": "LISA",
    "hft": "HFT",
    "badam": "BAdam",
    "top-layers": "top layers",
    "directions": "directions",
    "directions:even": "directions, one rank",
    "directions:one-sided": "directions, one-sided",
    "directions:shuffled": "directions of another layer",
    "directions:random": "random directions",
    "directions:random-even": "random directions, one rank",
    "guided": "guided (default)",
    "guided:auto": "guided (default), a recipe's rate",
    "guided:heads": "guided (default), heads too",
    "guided:attribution": "guided, attribution",
    "guided:attribution-late": "guided, attribution, late layers",
    "guided:one-sided": "guided, one-sided",
    "guided:two-sided": "guided, two-sided",
    "guided:fisher": "guided, Fisher",
    "guided:natural-gain": "guided, natural gain",
    "guided:coherence": "guided, coherence",
    "guided:late": "guided, late layers",
    "guided:rank": "guided, low rank",
    "guided:rank-heads": "guided, low rank, heads too",
    "guided:freeze": "guided freeze",
    "guided:lora": "guided LoRA",
    "guided:lora-late": "guided LoRA, late layers",
    "random": "random",
    "random:default": "random, placed as the default",
    "random:auto": "random, placed as the default, a recipe's rate",
    "random:late": "random, late layers",
    "random:rank": "random, low rank",
    "random:rank-heads": "random, low rank, heads too",
    "bottom": "lowest scores",
    "magnitude": "magnitude",
    "shuffled": "shuffled in its layers",
    "shuffled:natural-gain": "natural gain, shuffled in its layers",
    "wrong-task": "located for a wrong task",
}
"""In the order of tables and legends."""

_FAMILY = {"base": "#8a8f98", "full": "#111111", "lora": "#d95f02", "rslora": "#e6a03c", "dora": "#a6561a"}
_FAMILY |= {"shira": "#7b3294", "ia3": "#c2a5cf", "lisa": "#c51b7d", "hft": "#de77ae", "badam": "#8e0152"}
_FAMILY |= {"top-layers": "#5e3c99", "guided": "#1b6ca8", "random": "#7f7f7f", "bottom": "#a3abb5"}
_FAMILY |= {"magnitude": "#a3abb5", "shuffled": "#a3abb5", "wrong-task": "#a3abb5"}
_VARIANT = {"guided:one-sided": "#66c2a5", "guided:two-sided": "#1a9850", "guided:natural-gain": "#a6d854"}
_VARIANT |= {"guided:coherence": "#00b5d8", "guided:late": "#80b1d3", "guided:freeze": "#5e4fa2"}
_VARIANT |= {"guided:rank": "#e7298a", "guided:rank-heads": "#e41a1c"}
_VARIANT |= {
    "guided:lora": "#8da0cb",
    "guided:lora-late": "#5571b5",
    "guided:attribution": "#2c7fb8",
    "guided:attribution-late": "#253494",
    "guided:fisher": "#b8b800",
    "guided:heads": "#e6ab02",
    "guided:auto": "#6baed6",
}
_FAMILY |= {"directions": "#1b6ca8"}
_VARIANT |= {
    "directions:random": "#7f7f7f",
    "directions:random-even": "#a3abb5",
    "directions:one-sided": "#66c2a5",
    "full:mixed": "#9467bd",
}
_MARKERS = "osD^v<>PXph*d"


def family(arm: str) -> str:
    return arm.split(":")[0]


def label(arm: str) -> str:
    if arm in LABELS:
        return LABELS[arm]
    first, *rest = arm.split(":")
    return ", ".join([LABELS.get(first, first), *(part.replace("-", " ") for part in rest)])


def ordered(arms: Iterable[str]) -> list[str]:
    """Arms in the order of ``LABELS``; one that is not listed comes after the listed ones of its family."""
    known = list(LABELS)

    def place(arm: str) -> tuple[int, bool, str]:
        if arm in LABELS:
            return known.index(arm), False, arm
        kin = [i for i, other in enumerate(known) if family(other) == family(arm)]
        return max(kin, default=len(known)), True, arm

    return sorted(set(arms), key=place)


def colour(arm: str) -> str:
    return _VARIANT.get(arm) or _FAMILY.get(family(arm), "#444444")


def marker(arm: str) -> str:
    """A shape that tells the arms of one family apart."""
    kin = [other for other in LABELS if family(other) == family(arm)]
    # Controls share a colour, so that they need shapes of their own.
    kin = list(CONTROLS) if arm in CONTROLS else kin
    place = kin.index(arm) if arm in kin else len(kin) + sum(map(ord, arm))
    return _MARKERS[place % len(_MARKERS)]
