"""Several processes as one: under torchrun each takes a share of the batches, and the sums are added up."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..errors import GuidedError

T = TypeVar("T")


def size() -> int:
    """Number of processes that work together; 1 outside of torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_together(processes: int) -> None:
    """Raise GuidedError in a process that was started as one of several and trains as one of ``processes`` = 1.

    Without a GPU, and without ``use_cpu``, a trainer counts itself only, also where the processes know each other.
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" in os.environ and started != "1" and processes == 1:
        raise GuidedError(
            f"torchrun: it started {started} processes, which do not work together and would train {started} models "
            "(on a machine without a GPU: use_cpu=True)"
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are spread over the processes, so that all must run the same passes together."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Of a sharded tensor the part that lies here, of another all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor: of a sharded one each process must ask together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def share(batches: Iterable[T], split: bool) -> Iterator[T]:
    """The batches of this process: every ``size()``-th."""
    return itertools.islice(batches, dist.get_rank(), None, size()) if split else iter(batches)


def agree(what: str, hash: str) -> None:
    """Raise GuidedError, naming ``what``, unless it is the same in all processes."""
    if size() > 1:
        hashes: list[str | None] = [None] * size()
        dist.all_gather_object(hashes, hash)
        if len(set(hashes)) > 1:
            raise GuidedError(f"{what}: it differs between the processes (give all of them the same)")


def same(value: T) -> T:
    """What the first process has."""
    if size() == 1:
        return value
    values: list[T] = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return size() == 1 or dist.get_rank() == 0


def everywhere(holds: bool) -> bool:
    """Whether something holds in all processes."""
    if size() == 1:
        return holds
    answers: list[bool | None] = [None] * size()
    dist.all_gather_object(answers, holds)
    return all(answers)


def wait() -> None:
    """Go on when all processes have come here."""
    if size() > 1:
        dist.barrier()


def reduce(values: dict[Any, torch.Tensor], operation: str = "sum") -> None:
    """Add up (or take the ``max`` of) tensors over the processes, in place; one may lack keys that others have."""
    shapes: list[Any] = [None] * size()
    dist.all_gather_object(shapes, {key: (tuple(v.shape), v.dtype) for key, v in values.items()})
    device = "cpu" if dist.get_backend() == "gloo" else torch.device("cuda", torch.cuda.current_device())
    empty = 0.0 if operation == "sum" else -torch.inf
    how = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[operation]
    for key, (shape, dtype) in sorted({k: s for part in shapes for k, s in part.items()}.items(), key=str):
        mine = values[key].to(device) if key in values else torch.full(shape, empty, dtype=dtype, device=device)
        dist.all_reduce(mine, how)
        values[key] = mine
