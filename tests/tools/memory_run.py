"""Train for three steps in a process of its own and print how much memory that took: run by test_estimate.py.

    python tests/tools/memory_run.py MODEL_OR_CONFIG ARM ROWS LENGTH BUDGET [--checkpointing]

Prints resident bytes as JSON: ``base`` before the model is loaded, but with everything imported that training takes,
and ``peak`` while it trains. Linux only.

Set MALLOC_MMAP_THRESHOLD_=65536: glibc's allocator keeps what is freed between small blocks that live on, and its peak is
then up to 1.7 times of what is in use.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft.anatomy import Anatomy
from guided_ft.estimate.ways import ways
from guided_ft.models import load_model

TOY = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}
BUDGET_OF_TOY = 100_000


def status(field: str) -> int:
    """A figure of the kernel about this process, in bytes."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def train(model: Any, arm: str, rows: int, length: int, budget: int, checkpointing: bool) -> None:
    model = model.requires_grad_(False).train()
    model = {a.key: a for a in ways(Anatomy.of(model), budget)}[arm].attach(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # It would carry gradients below the first trained layer.
        getattr(model, "base_model", model).disable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    for step in range(3):
        torch.manual_seed(step)
        ids = torch.randint(3, 99, (rows, length))
        mask = torch.ones_like(ids)
        mask[0, :3] = 0  # as in a real batch, which is padded
        model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def made(name: str) -> Any:
    """An installed model; or, of a ``config.json``, a random one: experts are copied from a file that stays mapped."""
    if not name.endswith(".json"):
        return load_model(name)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name), dtype=torch.float32)


def main(name: str, arm: str, rows: str, length: str, budget: str, *options: str) -> dict[str, int]:
    checkpointing = "--checkpointing" in options
    toy = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TOY))
    train(toy, arm, 2, 8, BUDGET_OF_TOY, checkpointing)
    base = status("VmRSS")
    model = made(name)
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew: loading is not training
    train(model, arm, int(rows), int(length), int(budget), checkpointing)
    return {"base": base, "peak": status("VmHWM")}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
