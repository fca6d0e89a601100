"""Score a model whose weights are spread over the processes (FSDP2): ``torchrun --nproc_per_node 2 fsdp_scores.py OUT``."""

from __future__ import annotations

import os
import sys

import families
import scoring
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from guided_ft import localize

METHODS = ("activation", "frequency", "massive", "sink", "block_influence", "angular", "attribution")


def main(out: str) -> None:
    model = families.make("llama")
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        weight = model.model.layers[0].mlp.up_proj.weight
        assert weight.to_local().numel() < weight.numel(), "nothing is sharded"
    # Three batches: no even share.
    task = scoring.sums(6, batch_size=2)
    found = {}
    for name, scores in localize(model, task, methods=list(METHODS), retain=None).items():
        found |= {f"{name} {kind}": scores.of(kind) for kind in scores.kinds}
    exact = localize(model, task, "ablation", None, kinds=("layer", "head"))
    found |= {f"ablation {kind}": exact.of(kind) for kind in exact.kinds}
    scoring.write_ranks(found, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
