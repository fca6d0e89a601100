"""The part of an adapter's model card that PEFT cannot write: what was trained, and how to load it.

It stands between two marks under the card's title and is renewed at every save; the rest of the card is left alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import ModelCard

BEGIN, END = "<!-- guided_ft: written at every save -->", "<!-- guided_ft: end -->"
TAG = "guided_ft"
_OLD = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n*", re.DOTALL)
_TITLE = re.compile(r"^# .*\n+", re.MULTILINE)


class Described(Protocol):
    """What the card tells of an adapter's configuration."""

    slices: dict[str, dict] | None
    rank: int | None
    chosen: str | None
    base_model_name_or_path: str | None


_TEXT = """{begin}
This adapter changes chosen rows and columns of the weights of {base}; everything else is the base model's.

- trained: {chosen}
- where: {where}
- mode: slice{rank}

Loading it takes guided_ft (`pip install guided-ft`), whose import makes the method known to PEFT:

```python
import guided_ft
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("FOLDER OR REPOSITORY OF THIS CARD")
```

`PeftModel.from_pretrained(base_model, ...)` works as well. {leave} without guided_ft.
{end}

"""
_LORA = (
    "`guided_ft.export.to_lora(model, folder)` writes an equal LoRA and `guided_ft.export.merged(model, folder)` a "
    "plain checkpoint; both load"
)
_EXPERTS = "`guided_ft.export.merged(model, folder)` writes a plain checkpoint, which loads"


def write(folder: Path, config: Described) -> None:
    """Put the part about a slice adapter into ``folder/README.md``, which is made if there is none."""
    path = folder / "README.md"
    card: Any = (
        ModelCard.load(path) if path.exists() else ModelCard("---\nlibrary_name: peft\n---\n\n# Slice adapter\n\n")
    )
    card.data.tags = sorted({*(card.data.tags or ()), TAG})
    text = _OLD.sub("", card.text)
    title = _TITLE.search(text)
    at = title.end() if title else 0
    card.text = text[:at] + section(config) + text[at:]
    card.save(path)


def section(config: Described) -> str:
    """What the card says about an adapter."""
    slices = config.slices or {}
    experts = any("neurons" in spec for spec in slices.values())
    base = config.base_model_name_or_path
    return _TEXT.format(
        begin=BEGIN,
        end=END,
        base=f"`{base}`" if base else "its base model",
        chosen=config.chosen or "see `slices` in adapter_config.json",
        where=f"{len(slices)} modules in {_layers(slices)} layers (`slices` in adapter_config.json)",
        rank=f", as products of rank {config.rank}" if config.rank else "",
        leave=_EXPERTS if experts else _LORA,
    )


def _layers(slices: dict[str, dict]) -> int:
    return len({match[0] if (match := re.search(r"\.\d+\.", name)) else "" for name in slices})
