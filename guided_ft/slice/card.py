"""The model card of a saved adapter: what was trained, and how to load it.

Our part stands between two marks under the card's title and is renewed at every save; what people write around it is
left alone. The long empty form that PEFT begins a card with is taken out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import ModelCard

BEGIN, END = "<!-- guided_ft: written at every save -->", "<!-- guided_ft: end -->"
TAG = "guided_ft"
HERE = "FOLDER OR REPOSITORY OF THIS CARD"
_OLD = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n*", re.DOTALL)
_TITLE = re.compile(r"^# .*\n+", re.MULTILINE)
_FORM = "# Model Card for Model ID"
"""The title of PEFT's form, as long as nobody has filled it in."""
_VERSIONS = "### Framework versions"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Described(Protocol):
    """What the card tells of an adapter's configuration."""

    slices: dict[str, dict] | None
    rank: int | None
    chosen: str | None
    base_model_name_or_path: str | None


_TEXT = """This adapter changes chosen rows and columns of the weights of {base}; everything else is the base model's.

- trained: {chosen}
- where: {where}
- mode: slice{rank}

```python
import guided_ft  # pip install guided-ft; without this line PEFT knows no such adapter (KeyError: 'SLICE')
from peft import PeftModel

model = PeftModel.from_pretrained({load}, "{here}")
```

{leave} without guided_ft."""
_LORA = (
    "`guided_ft.export.to_lora(model, folder)` writes an equal LoRA and `guided_ft.export.merged(model, folder)` a "
    "plain checkpoint; both load"
)
_EXPERTS = "`guided_ft.export.merged(model, folder)` writes a plain checkpoint, which loads"


def write(folder: Path, config: Described) -> None:
    """Put the part about a slice adapter into ``folder/README.md``, which is made if there is none."""
    base = config.base_model_name_or_path
    put(folder, f"Slice adapter of {Path(base).name if base else 'a model'}", section(config), base)


def put(folder: Path, title: str, text: str, base: str | None, library: str = "peft") -> None:
    """Put our part into ``folder/README.md``, which is made if there is none.

    Args:
        title: of a card that nobody has named yet.
        text: our part, between its marks.
        base: the model that was trained; the Hub is told of it only if it can know it.
        library: what loads the folder.
    """
    path = folder / "README.md"
    card: Any = ModelCard.load(path) if path.exists() else ModelCard(f"---\nlibrary_name: {library}\n---\n{_FORM}\n")
    public = base is not None and _HUB_ID.fullmatch(base) is not None and not Path(base).exists()
    card.data.base_model = base if public else None
    tags = {tag for tag in card.data.tags or () if public or not tag.startswith("base_model:")}
    card.data.tags = sorted({*tags, TAG})
    around = _OLD.sub("", card.text)
    if around.lstrip().startswith(_FORM):
        _, versions, told = around.partition(_VERSIONS)
        around = f"\n# {title}\n\n{versions}{told}"
    found = _TITLE.search(around)
    at = found.end() if found else 0
    card.text = f"{around[:at]}{BEGIN}\n{text}\n{END}\n\n{around[at:]}"
    card.save(path)


def section(config: Described) -> str:
    """What the card says about an adapter."""
    slices = config.slices or {}
    experts = any("neurons" in spec for spec in slices.values())
    base = config.base_model_name_or_path
    return _TEXT.format(
        base=f"`{base}`" if base else "its base model",
        chosen=config.chosen or "see `slices` in adapter_config.json",
        where=f"{len(slices)} modules in {_layers(slices)} layers (`slices` in adapter_config.json)",
        rank=f", as products of rank {config.rank}" if config.rank else "",
        load=f'guided_ft.load_model("{base}")' if base else "base_model",
        here=HERE,
        leave=_EXPERTS if experts else _LORA,
    )


def _layers(slices: dict[str, dict]) -> int:
    return len({match[0] if (match := re.search(r"\.\d+\.", name)) else "" for name in slices})
