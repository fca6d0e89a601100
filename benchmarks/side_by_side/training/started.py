"""Peers whose adapters start from what text gives at the inputs of the layers: EVA and CorDA, as PEFT ships them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig, EvaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights

from guided_ft.scorers.self_text import self_text

from ..arms.ways import Started
from .peers import linear, rank_for
from .setup import Setup, Trial

TEXTS, TOKENS = 64, 64
"""Text that the base model samples, as much as a map of directions looks at."""


def started(way: Started, trial: Trial) -> Setup:
    """Start an adapter, and count what that took as localization."""
    wall, cpu = time.perf_counter(), time.process_time()
    rank = rank_for(trial.model, "all-linear", trial.parameters)
    torch.manual_seed(trial.cell.seed)
    model = _STARTS[way.kind](trial, rank)
    return Setup(model, localize_seconds=time.perf_counter() - wall, localize_cpu=time.process_time() - cpu)


def _config(model: Any, rank: int, **options: Any) -> LoraConfig:
    # CorDA looks for layers by these names before PEFT has read what "all-linear" means.
    names = sorted({name.split(".")[-1] for name, _ in linear(model)})
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM", **options)


def _eva(trial: Trial, rank: int) -> Any:
    """EVA (arXiv 2410.07170): A spans what varies most at the inputs on the task's rows; ranks are moved to where it is
    most."""
    config = _config(trial.model, rank, init_lora_weights="eva", eva_config=EvaConfig())
    model = get_peft_model(trial.model, config, low_cpu_mem_usage=True)
    device = next(model.parameters()).device
    batches = [
        {name: batch[name] for name in ("input_ids", "attention_mask")} for batch in trial.task().batches(device)
    ]
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    return model


def _corda(trial: Trial, rank: int) -> Any:
    """CorDA (arXiv 2406.05223), knowledge-preserving: the adapter starts from what retained text uses least of the
    weights; the base keeps the rest."""
    config = _config(trial.model, rank, init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm"))
    model, device = trial.model, next(trial.model.parameters()).device
    texts = self_text(model, num_examples=TEXTS, num_tokens=TOKENS, seed=trial.cell.seed, progress=False)

    def read() -> None:
        # One at a time: it knows of no padding.
        for (text,) in texts.examples:
            model(input_ids=torch.tensor([text.ids], device=device))

    preprocess_corda(model, config, run_model=read)
    return get_peft_model(model, config)


_STARTS: dict[str, Callable[[Trial, int], Any]] = {"eva": _eva, "corda": _corda}
