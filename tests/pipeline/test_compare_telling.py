"""What a comparison tells: why a worker ended, and how long it takes, in words."""

from __future__ import annotations

import pytest
import torch

from guided_ft.pipeline.compare.clock import minutes
from guided_ft.pipeline.compare.worker import ended_by


def test_only_a_want_of_memory_is_told_as_one():
    wants = [MemoryError(), torch.OutOfMemoryError(), RuntimeError("CUDA error: out of memory")]
    wants += [RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")]
    assert [ended_by(error) for error in wants] == [{"out_of_memory": True}] * len(wants)
    assert ended_by(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(20, "under a minute"), (61, "about 1 minute"), (700, "about 12 minutes"), (9000, "about 2.5 hours")],
)
def test_a_time_in_words(seconds, words):
    assert minutes(seconds) == words
