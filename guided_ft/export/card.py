"""Model cards of what is not a slice adapter: other adapters, whole models, and exports of slices."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..plan.plan import Plan
from ..slice.card import BEGIN, END, HERE, put
from ..system.files import read_text, write_text
from ..system.places import EMBEDDED

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

_ADAPTER = """{what}

- trained: {chosen}
- mode: {mode}

```python
{imports}
from peft import PeftModel

model = PeftModel.from_pretrained({load}, "{here}")
```"""

_MODEL = """{what}

- trained: {chosen}
- mode: {mode}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{here}")
tokenizer = AutoTokenizer.from_pretrained("{here}")
```"""


def describe(folder: Path, plan: Plan, base: str) -> None:
    """Write the card of what a plan trained and was saved: an adapter, or a whole model.

    A slice adapter has its card from ``SliceConfig.save_pretrained``.

    Args:
        base: the model that was trained, as the user names it.
    """
    chosen = _chosen(plan)
    config = folder / "adapter_config.json"
    if not config.exists():
        what = f"This is `{base}` with the parts below trained in place; everything else is the base model's."
        text = _MODEL.format(what=what, chosen=chosen, mode=plan.mode, here=HERE)
        put(folder, f"{Path(base).name}, trained in part", text, base, "transformers")
        return
    kind = json.loads(read_text(config))["peft_type"]
    if kind == "SLICE":
        return
    what = f"This {kind} adapter of `{base}` trains only the modules that hold what was chosen."
    put(folder, f"{kind} adapter of {Path(base).name}", _adapter(what, chosen, plan.mode, base), base)


def write_lora(folder: Path, config: PeftConfig, plan: Plan | None) -> None:
    """Write the card of an adapter that was exported as a LoRA of one rank, and of the plan that it was trained by."""
    from peft import PeftType

    base, kind = config.base_model_name_or_path, PeftType(config.peft_type).value
    what = f"This LoRA computes exactly what the {kind} adapter of {_named(base)} did that it was exported from."
    known = getattr(config, "chosen", None) or "see `target_modules` in adapter_config.json"
    chosen, mode = (known, kind.lower()) if plan is None else (_chosen(plan), plan.mode)
    text = _adapter(what, chosen, f"{mode}, exported as LoRA of one rank", base)
    put(folder, f"LoRA of {Path(base).name if base else 'a model'}", text, base)


def _chosen(plan: Plan) -> str:
    total = plan.selection.anatomy.num_parameters
    told = "; ".join(line.strip() for line in str(plan.selection).splitlines()[:2])
    return f"{plan.num_parameters:,} parameters ({plan.num_parameters / total:.3%}), for {told}"


def write_merged(folder: Path, model: PeftModel) -> None:
    """Write the card of a checkpoint that adapters were merged into."""
    from peft import PeftType

    configs = [model.peft_config[name] for name in model.active_adapters]
    base = configs[0].base_model_name_or_path
    kinds = " and ".join(PeftType(config.peft_type).value for config in configs)
    chosen = "; ".join(
        getattr(config, "chosen", None) or f"a {PeftType(config.peft_type).value} adapter" for config in configs
    )
    what = f"This is {_named(base)} with a trained adapter merged in. It needs nothing but transformers."
    text = _MODEL.format(what=what, chosen=chosen, mode=f"{kinds.lower()}, merged", here=HERE)
    put(folder, f"{Path(base).name if base else 'Model'}, trained in part", text, base, "transformers")


def carry(source: Path, target: Path, repository: str) -> None:
    """Put our part of one folder's card into another's, which may hold what people wrote, with its new address."""
    from huggingface_hub import ModelCard

    path = source / "README.md"
    card = ModelCard.load(path)
    title = next((line[2:] for line in card.text.splitlines() if line.startswith("# ")), repository)
    _, begun, rest = card.text.partition(BEGIN)
    if begun:
        text = rest.partition(END)[0].strip()
        put(target, title, text.replace(HERE, repository), card.data.base_model, card.data.library_name or "peft")
    elif not (target / "README.md").exists():
        write_text(target / "README.md", read_text(path))


def _adapter(what: str, chosen: str, mode: str, base: str | os.PathLike[str] | None) -> str:
    ours = base in EMBEDDED
    return _ADAPTER.format(
        what=what,
        chosen=chosen,
        mode=mode,
        imports="import guided_ft" if ours else "from transformers import AutoModelForCausalLM",
        load=f'{"guided_ft.load_model" if ours else "AutoModelForCausalLM.from_pretrained"}("{base}")'
        if base
        else "base_model",
        here=HERE,
    )


def _named(base: str | os.PathLike[str] | None) -> str:
    return f"`{base}`" if base else "its base model"
