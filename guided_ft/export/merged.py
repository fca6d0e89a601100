"""The merged model as a plain checkpoint."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..errors import GuidedError
from .adapted import adapted, merged_copy
from .card import write_merged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def merged(model: nn.Module, folder: str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
    """Write the model with its active adapters merged in: a plain checkpoint that needs neither PEFT nor guided_ft.

    The given model stays as it is and can be used on. A quantized base is dequantized first, so that nothing of the
    adapter is rounded to its codes: the checkpoint computes what was trained, and is as large as an unquantized one.

    Args:
        tokenizer: saved along, with its chat template; None: none is.

    Raises:
        GuidedError: if the model has no adapter, one is merged into a quantized base, the base is quantized by
            something else than bitsandbytes, or the folder is in use.
        ValueError: if an adapter holds NaN or infinity.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise GuidedError(f"{target}: already in use (name a new or empty folder)")
    peft_model = adapted(model)
    plain = merged_copy(peft_model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        whole = Path(temporary, "model")
        plain.save_pretrained(whole)
        if tokenizer is not None:
            tokenizer.save_pretrained(whole)
        write_merged(whole, peft_model)
        # A folder that exists holds a whole model.
        os.replace(whole, target)
    return target
