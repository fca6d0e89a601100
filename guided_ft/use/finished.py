"""A run that has trained: its recipe, and its model as it was saved. Imports no torch until the model is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import GuidedError
from ..models import load_model, load_tokenizer
from ..plan.plan import Plan
from ..recipe.recipe import Recipe
from ..system.files import read_json, read_text

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECIPE, ADAPTER, PLAN = "recipe.yaml", "adapter", "plan.json"

FORM = (("run.json", "run", "task"), ("stages/localize.json", "stage", "result"))
"""Files that say whether rows are messages, their kinds, and under which key; the second where a run only trained."""


class Finished:
    """A folder of a run whose training is done.

    Args:
        folder: such as ``runs/quickstart``.
        trust_remote_code: run code that the model's repository brings along.

    Raises:
        GuidedError: if no trained model is in it.
    """

    def __init__(self, folder: str | os.PathLike[str], trust_remote_code: bool = False) -> None:
        self.folder = Path(folder)
        self.saved = self.folder / ADAPTER
        if not (self.folder / RECIPE).is_file():
            raise GuidedError(f"{folder}: no {RECIPE} in it (give the folder of a run, such as runs/quickstart)")
        if not self.saved.is_dir():
            typed = shlex.quote(str(self.folder / RECIPE))
            raise GuidedError(f"{folder}: its training is not done (run: guided-ft train {typed})")
        self.recipe = Recipe.load(self.folder / RECIPE)
        self._trust = trust_remote_code

    @property
    def whole(self) -> bool:
        """Whether all of the model was saved, and not an adapter of it."""
        return not (self.saved / "adapter_config.json").exists()

    @property
    def talks(self) -> bool:
        """Whether it was trained on messages, and not on plain prompts."""
        for name, kind, key in FORM:
            if (self.folder / name).is_file():
                return read_json(self.folder / name, kind).get(key, {}).get("form") == "messages"
        return False

    @property
    def plan(self) -> Plan | None:
        """What was trained, if it lies beside what was saved."""
        path = self.folder / PLAN
        return Plan.load(path) if path.is_file() else None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """As it was saved with the adapter, chat template included."""
        return load_tokenizer(str(self.saved), trust_remote_code=self._trust)

    @cached_property
    def model(self) -> PreTrainedModel | PeftModel:
        """The trained model, in eval mode; if an adapter was saved, a PeftModel."""
        if self.whole:
            return load_model(str(self.saved), dtype=self.recipe.dtype, trust_remote_code=self._trust)
        return _with_adapter(self._load_base(), self.saved).eval()

    @contextlib.contextmanager
    def base(self) -> Iterator[PreTrainedModel | PeftModel]:
        """The model before training, inside the block: the same one with its adapter off, or else loaded anew."""
        if self.whole:
            yield self._base
            return
        with cast("PeftModel", self.model).disable_adapter():
            yield self.model

    @cached_property
    def _base(self) -> PreTrainedModel:
        return self._load_base()

    def _load_base(self) -> PreTrainedModel:
        r = self.recipe
        return load_model(r.model, dtype=r.dtype, quantization=r.quantization, trust_remote_code=self._trust)


def _with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """A model with the adapter of a folder. Raises GuidedError for one that is damaged."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    mend = "train it again, or get an undamaged copy"
    try:
        _check_config(folder)
        model = PeftModel.from_pretrained(base, folder)
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    except GuidedError as error:
        raise GuidedError(f"{folder}: {str(error)[:300]} ({mend})") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Whatever else goes wrong, the files of the adapter are all that it can be due to.
        told = " ".join(str(error).split())[:160] or type(error).__name__
        raise GuidedError(f"{folder}: the adapter cannot be loaded: {told} ({mend})") from None
    bad = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
    if bad:
        raise GuidedError(f"{folder}: {bad} is not finite ({mend})")
    return model


def _check_config(folder: Path) -> None:
    """Refuse what PEFT would take: ranks that the file of weights is too small for, before it makes room for them, and
    adapters that wait for tokens, which no run writes and which fail at the first text."""
    config = json.loads(read_text(folder / "adapter_config.json"))
    if config.get("alora_invocation_tokens") is not None:
        raise GuidedError("adapter_config.json names alora_invocation_tokens, which no run does")
    ranks = [config.get("r"), config.get("rank"), *dict(config.get("rank_pattern") or {}).values()]
    size = max((path.stat().st_size for path in folder.glob("adapter_model.*")), default=0)
    for rank in ranks:
        if isinstance(rank, int) and rank > size:
            raise GuidedError(f"a rank above the {size:,} bytes of its weights: is adapter_config.json its own?")
