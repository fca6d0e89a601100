"""What a GPU is needed to prove, one row each: every way of training, quantized bases, kernels, two GPUs.

    tests/gpu.sh [ROW ...] [--device cpu] [--record]

Prints a table, and ends with 1 if a row failed, with 2 where there is no GPU. Rows that need two say so where there is
one. ``--device cpu`` rehearses. Models are tiny: it is about devices, not about speed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import families
import numpy as np
import tiny
import torch
import trainers
import two_processes

from guided_ft import GuidedCallback, Task, load_model, localize
from guided_ft.system.arrays import read_arrays

Row = Callable[[Path, str], str]


def trained(folder: Path, device: str, mode: str, trainer: str, **options: Any) -> str:
    """Train, save, certify, resume from the first half: the same bits."""
    make = trainers.TRAINERS[trainer]
    losses = []

    def once(name: str, resume: bool = False) -> Any:
        callback = GuidedCallback(trainers.ready(families.make("llama"), mode))
        done = make(trainers.base(folder), folder / name, [callback], use_cpu=device == "cpu", **options)
        done.train(resume_from_checkpoint=resume)
        assert callback.certificate.ok
        assert next(done.model.parameters()).device.type == device
        losses[:] = [entry["loss"] for entry in done.state.log_history if "loss" in entry]
        return callback

    certificate = once("whole").certificate
    once("cut")
    last = f"checkpoint-{trainers.STEPS}"
    for path in sorted((folder / "cut" / last).glob("*")):
        path.unlink()
    (folder / "cut" / last).rmdir()
    once("cut", resume=True)
    same = trainers.digests(folder / "cut" / last) == trainers.digests(folder / "whole" / last)
    assert same, "resumed, the bits differ"
    return (
        f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {certificate.identical}/{certificate.total} frozen, resumed alike"
    )


def quantized(folder: Path, device: str, kind: str) -> str:
    families.make("llama").save_pretrained(folder / "base")
    model = load_model(str(folder / "base"), quantization=kind)
    plan = trainers.ready(model, "slice")
    callback = GuidedCallback(plan)
    trainer = trainers.sft(model, folder / "run", [callback], plan.peft_config(), use_cpu=device == "cpu")
    trainer.train()
    assert callback.certificate.ok
    assert next(trainer.model.parameters()).device.type == device
    return f"{callback.certificate.identical}/{callback.certificate.total} frozen"


def attention(folder: Path, device: str) -> str:
    """Flash attention's kernel: its own package where it is installed, or else torch's."""
    model = families.make("llama", torch.bfloat16).to(device)
    own = importlib.util.find_spec("flash_attn") is not None and device == "cuda"
    model.set_attn_implementation("flash_attention_2" if own else "sdpa")
    plan = trainers.ready(model, "slice")
    attached, ids = plan.attach(model).train(), families.tokens().to(device)
    backend = torch.nn.attention.SDPBackend.FLASH_ATTENTION
    with torch.nn.attention.sdpa_kernel([backend, torch.nn.attention.SDPBackend.MATH]):
        loss = attached(input_ids=ids, labels=ids).loss
        loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in attached.parameters() if p.requires_grad)
    return f"{'flash_attn' if own else 'torch'}, loss {loss.item():.3f}"


def compiled(folder: Path, device: str) -> str:
    model = families.make("llama").to(device)
    attached = trainers.ready(model, "slice").attach(model).train()
    for parameter in attached.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    ids = families.tokens().to(device)
    plain = attached(input_ids=ids).logits
    fast = torch.compile(attached)(input_ids=ids).logits
    difference = float((plain - fast).abs().max())
    assert difference < 1e-3, difference
    return f"logits within {difference:.1e}"


def located(folder: Path, device: str) -> str:
    """Scores are those of the CPU."""
    task = Task.from_dataset(tiny.sums(6), tiny.tokenizer())
    here, there = (localize(families.make("llama").to(d), task, retain=None) for d in ("cpu", device))
    worst = max(float(np.abs(here.of(k) - there.of(k)).max() / np.abs(here.of(k)).max()) for k in here.kinds)
    assert worst < 1e-3, worst
    return f"within {worst:.1e} of the CPU's"


def merged(folder: Path, device: str) -> str:
    model = families.make("llama", torch.bfloat16).to(device)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attached = trainers.ready(model, "slice").attach(model)
    for parameter in attached.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    attached.merge_adapter()
    attached.unmerge_adapter()
    after = attached.unload().state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    return "unmerged bit for bit"


def together(folder: Path, device: str, what: str) -> str:
    """Two processes, one GPU each, train or find what one does."""
    families.make("llama").save_pretrained(folder / "base")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, two_processes.__file__, str(folder / "base"), str(folder), *(["--gpu"] * (device == "cuda"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-300:]
    for name in ("train", "ways", "shares", "sharded", "loops"):
        first, second = (read_arrays(folder / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert set(first) == set(second), name
        assert all(np.array_equal(first[key], second[key]) for key in first), name
    return f"{what}: both processes the same"


ROWS: dict[str, tuple[int, Row]] = {
    **{
        f"{trainer} {mode}": (1, partial(trained, mode=mode, trainer=trainer))
        for trainer in ("sft", "dpo")
        for mode in trainers.MODES
    },
    "sft slice, bfloat16 autocast": (1, partial(trained, mode="slice", trainer="trainer", bf16=True)),
    "sft slice, checkpointing": (1, partial(trained, mode="slice", trainer="sft", gradient_checkpointing=True)),
    "nf4": (1, partial(quantized, kind="nf4")),
    "int8": (1, partial(quantized, kind="int8")),
    "flash attention": (1, attention),
    "compile": (1, compiled),
    "scores": (1, located),
    "merge, bfloat16": (1, merged),
    "DDP and FSDP2": (2, partial(together, what="DDP, shared scores, FSDP2")),
}
"""How many GPUs a row needs, and what it does in a folder of its own on ``cuda`` (or ``cpu``)."""


def run(name: str, device: str) -> tuple[str, str, float]:
    """``ok``, ``FAILED`` or ``no 2 GPUs``; what came out; seconds."""
    needed, row = ROWS[name]
    if device == "cuda" and torch.cuda.device_count() < needed:
        return f"no {needed} GPUs", "", 0.0
    began = time.perf_counter()
    # What trainers and their libraries print would hide the table.
    aside = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(aside),
        contextlib.redirect_stderr(aside),
    ):
        try:
            return "ok", row(Path(folder), device), time.perf_counter() - began
        except Exception as error:
            return (
                "FAILED",
                f"{type(error).__name__}: {' '.join(str(error).split())[:160]}",
                time.perf_counter() - began,
            )


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("rows", nargs="*", help=f"of: {', '.join(ROWS)}")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse without a GPU")
    options.add_argument("--record", action="store_true", help="keep the table in tests/results")
    asked = options.parse_args()
    if unknown := [name for name in asked.rows if name not in ROWS]:
        options.error(f"no row {unknown[0]!r}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here (rehearse with --device cpu)", file=sys.stderr)
        return 2
    fates = {}
    for name in asked.rows or ROWS:
        fate, said, seconds = run(name, asked.device)
        fates[name] = fate
        print(f"{name:30} {fate:9} {seconds:6.1f} s  {said}", flush=True)
    print(json.dumps({fate: list(fates.values()).count(fate) for fate in sorted({*fates.values()})}))
    if asked.record:
        import figures

        figures.write("gpu", "tests/gpu.sh --record" + " --device cpu" * (asked.device == "cpu"), fates)
    return int("FAILED" in fates.values())


if __name__ == "__main__":
    sys.exit(main())
