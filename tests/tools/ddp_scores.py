"""Score under torchrun: ``torchrun --nproc_per_node 2 ddp_scores.py OUT``; each rank writes what it found."""

from __future__ import annotations

import os
import sys

import families
import pytest
import scoring
import torch
import torch.distributed as dist

from guided_ft import localize, localize_directions
from guided_ft.errors import GuidedError


def main(out: str) -> None:
    rank = int(os.environ.get("RANK", "0"))
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    found = {}
    # Five batches of four sizes: the processes' shares differ; of the second set one process gets nothing at all.
    task, against = scoring.sums(9, batch_size=2), scoring.sums(2, batch_size=2, first=12)
    wanted = scoring.all_methods(against, skip=("gates",))
    wanted["mean"] = {"method": "attribution", "replace": "mean"}
    for family in ("llama", "gpt2"):
        for name, scores in localize(families.make(family), task, methods=wanted, retain=None).items():
            found |= {f"{family} {name} {kind}": scores.of(kind) for kind in scores.kinds}
    exact = localize(families.make("opt"), task, "ablation", None, kinds=("layer", "head"), replace="mean")
    found |= {f"exact {kind}": exact.of(kind) for kind in exact.kinds}
    patched = localize(families.make("llama"), scoring.pairs(5, 2), "attribution", None, replace="corrupted")
    found["pairs"] = patched.neuron
    two_sided = localize(families.make("llama"), task, "attribution", "self", seed=3)
    found["two-sided"] = two_sided.head
    for name, scores in localize_directions(families.make("llama"), task, against, max_rank=4).scores.items():
        found[f"directions {name}"] = scores
    if dist.is_initialized():
        with pytest.raises(GuidedError, match="differs between the processes"):
            localize(families.make("llama"), scoring.sums(3 + rank), "attribution", None)
    scoring.write_ranks(found, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
