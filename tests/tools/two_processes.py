"""Under ``torchrun --nproc_per_node 2 two_processes.py BASE OUT [--gpu]``: train and score as one process does.

One start for all of it, as loading the libraries takes longer than the work. Each rank writes what it found. With
``--gpu`` each has one of its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import scoring
import tiny
import torch
import torch.distributed as dist
import trainers
from accelerate.state import DistributedType, PartialState
from datasets import Dataset
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, Task, localize, localize_directions
from guided_ft.errors import GuidedError
from guided_ft.system.arrays import read_arrays, write_arrays
from guided_ft.system.files import write_text
from guided_ft.system.processes import is_sharded, wait

SHARDED = ("activation", "frequency", "massive", "sink", "block_influence", "angular", "attribution")

Found = dict[str, np.ndarray]

LOOP = 20
"""Steps of a training loop of one's own."""

WAYS = ("subspace", "slice", "lora", "freeze", "subspace dpo", "slice dpo")
"""Modes, each with gradient checkpointing and accumulated batches; with pairs where it says so."""


def gpu() -> bool:
    return "--gpu" in sys.argv


def made(family: str, **settings: Any) -> Any:
    """A tiny model where this process works."""
    model = families.make(family, **settings)
    return model.to(f"cuda:{os.environ['LOCAL_RANK']}") if gpu() else model


class Late:
    """All processes but the first are late with their part of a checkpoint."""

    def _save_rng_state(self, output_dir: str) -> None:
        if self.args.process_index:  # type: ignore[attr-defined]
            time.sleep(1)
        super()._save_rng_state(output_dir)  # type: ignore[misc]


class Sft(Late, SFTTrainer):
    pass


class Dpo(Late, DPOTrainer):
    pass


def train(
    base: Path,
    out: Path,
    per_device: int,
    way: str = "subspace",
    budget: str = "20%",
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> tuple[Found, str]:
    """What was trained, and the plan's hash, the certificate and the number of processes in words."""
    mode, _, pairs = way.partition(" ")
    kind, config, rows = (Dpo, DPOConfig, tiny.pairs) if pairs else (Sft, SFTConfig, tiny.sums)
    callback = GuidedCallback(
        task=Task.from_dataset(rows(8), tiny.tokenizer()), mode=mode, budget=budget, learning_rate=None
    )
    args = config(
        str(out),
        max_steps=4,
        save_steps=4,
        per_device_train_batch_size=per_device,
        learning_rate=1e-2,
        use_cpu=not gpu(),
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        **{"gradient_checkpointing": False} | settings,
    )
    trainer = kind(
        AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=dtype),
        args=args,
        train_dataset=Dataset.from_list(rows(24)),
        processing_class=tiny.tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    trained = {n: p.detach().cpu().numpy() for n, p in trainer.model.named_parameters() if p.requires_grad}
    return trained, f"{callback.plan.hash} {callback.certificate} {args.world_size}"


def ways(out: Path, base: Path, per_device: int) -> Found:
    """What each of ``WAYS`` trains."""
    found = {}
    for way in WAYS:
        folder = out / way.replace(" ", "-")
        settings = {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "save_strategy": "no"}
        # Less would not buy a whole MLP. Adam makes a step of the rounding in a gradient that is nearly zero.
        trained, told = train(base, folder, per_device, way, "40%", torch.float64, **settings)
        assert "bit-identical" in told, told
        found |= {f"{way} {name}": value for name, value in trained.items()}
    return found


def shares() -> Found:
    """Scores of batches that the processes share among them."""
    found = {}
    # Five batches of four sizes: the processes' shares differ; of the second set one process gets nothing at all.
    task, against = scoring.sums(9, batch_size=2), scoring.sums(2, batch_size=2, first=12)
    wanted = scoring.all_methods(against, skip=("gates",))
    wanted["mean"] = {"method": "attribution", "replace": "mean"}
    for family in ("llama", "gpt2"):
        for name, scores in localize(made(family), task, methods=wanted, retain=None).items():
            found |= {f"{family} {name} {kind}": scores.of(kind) for kind in scores.kinds}
    exact = localize(made("opt"), task, "ablation", None, kinds=("layer", "head"), replace="mean")
    found |= {f"exact {kind}": exact.of(kind) for kind in exact.kinds}
    patched = localize(made("llama"), scoring.pairs(5, 2), "attribution", None, replace="corrupted")
    found["pairs"] = patched.neuron
    two_sided = localize(made("llama"), task, "attribution", "self", seed=3)
    found["two-sided"] = two_sided.head
    for name, scores in localize_directions(made("llama"), task, against, max_rank=4).scores.items():
        found[f"directions {name}"] = scores
    if dist.is_initialized():
        with pytest.raises(GuidedError, match="differs between the processes"):
            localize(made("llama"), scoring.sums(3 + dist.get_rank()), "attribution", None)
    return found


def spread(model: torch.nn.Module, layers: Iterable[torch.nn.Module]) -> None:
    """FSDP2, where there are several processes."""
    if not dist.is_initialized():
        return
    mesh = init_device_mesh("cuda" if gpu() else "cpu", (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    weights = [p for p in model.parameters() if p.ndim == 2]
    assert all(p.to_local().numel() < p.numel() for p in weights if len(p) > 1), "something is not sharded"


def loops() -> Found:
    """What 20 steps of a loop of one's own train in each mode, each process on its share of the rows."""
    found = {}
    rows = torch.randint(3, 90, (4, 12), generator=torch.Generator().manual_seed(0))
    mine = rows[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else rows
    for mode in trainers.MODES:
        model = trainers.ready(families.make("llama"), mode).attach(made("llama")).train()
        spread(model, model.get_decoder().layers)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # Adam makes a step of the rounding in a gradient that is nearly zero.
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, eps=1e-4)
        ids = mine.to(next(model.parameters()).device)
        for _ in range(LOOP):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for name, p in trained.items():
            whole = p.full_tensor() if hasattr(p, "full_tensor") else p
            found[f"{mode} {name}"] = whole.detach().cpu().numpy()
    return found


def sharded() -> Found:
    """Scores of a model whose weights are spread over the processes (FSDP2), where there are several."""
    model = made("llama")
    spread(model, model.model.layers)
    # Three batches: no even share.
    task = scoring.sums(6, batch_size=2)
    found = {}
    for name, scores in localize(model, task, methods=list(SHARDED), retain=None).items():
        found |= {f"{name} {kind}": scores.of(kind) for kind in scores.kinds}
    exact = localize(model, task, "ablation", None, kinds=("layer", "head"))
    return found | {f"ablation {kind}": exact.of(kind) for kind in exact.kinds}


def counting_as_gpus(init: Callable[..., None]) -> Callable[..., None]:
    """Accelerate spreads weights over GPUs only, and on CPUs trains whole copies without a word."""

    def counted(state: PartialState, *args: Any, **kwargs: Any) -> None:
        init(state, *args, **kwargs)
        if state.distributed_type == DistributedType.MULTI_CPU:
            state._shared_state["distributed_type"] = state.distributed_type = DistributedType.MULTI_GPU

    return counted


def saved(out: Path, per_device: int) -> Found:
    """What a Trainer saves in each mode, where its ``fsdp`` spreads the weights over several processes."""
    found: Found = {}
    several = dist.is_initialized()
    policy = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    settings = {"fsdp": True, "fsdp_config": {"version": 2, **policy}} if several else {}
    for mode in trainers.MODES:
        callback = GuidedCallback(trainers.ready(families.make("llama"), mode), learning_rate=None)
        model = made("llama", dtype=torch.float64)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(PartialState, "__init__", counting_as_gpus(PartialState.__init__))
            options = {"save_strategy": "no", "max_steps": 3, "use_cpu": not gpu(), **settings}
            rows = {"per_device_train_batch_size": per_device}
            trainer = trainers.plain(model, out / mode, [callback], **rows, **options)
            trainer.train()
            assert is_sharded(trainer.model) == several
            trainer.save_model(str(out / mode / "saved"))
            wait()
        assert callback.certificate is not None
        assert callback.certificate.ok
        [file] = (out / mode / "saved").glob("*.safetensors")
        found |= {f"{mode} {name}": value for name, value in read_arrays(file).items()}
    return found


def refused(base: Path, out: Path) -> None:
    """Plans that differ are told before anything is trained, directions too."""
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    callback = GuidedCallback((trainers.ready, trainers.another)[dist.get_rank()](model, "subspace"))
    with pytest.raises(GuidedError, match="plan: it differs between the processes"):
        trainers.sft(model, out / "refused", [callback], use_cpu=not gpu())
    if gpu():
        return
    # Without use_cpu, where there is no GPU, each trainer takes itself for the only one.
    with pytest.raises(GuidedError, match="torchrun: it started 2 processes, which do not work together"):
        trainers.sft(model, out / "alone", [GuidedCallback(trainers.ready(model, "subspace"))], use_cpu=False)


def main(base: Path, out: Path) -> None:
    rank = os.environ["RANK"]
    # Training opens the group of processes that the others use, too.
    trained, told = train(base, out, per_device=2)
    write_text(out / f"rank{rank}.txt", told)
    refused(base, out)
    several = {"train": trained, "ways": ways(out, base, per_device=2), "shares": shares()}
    several |= {"sharded": sharded(), "loops": loops(), "saved": saved(out / "saved", per_device=2)}
    for name, found in several.items():
        write_arrays(out / f"{name}-{rank}.safetensors", found)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
