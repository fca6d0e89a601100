"""What all tests share. ``families`` holds the tiny models themselves."""

from __future__ import annotations

import gc
import os

# Before anything imports the hub's client: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests run side by side: the processes that they start must not take every core too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from families import MOE, NAMES

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Spare the collector the libraries: each trainer ends with a collection, which else walks all that they hold."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each architecture family in turn; ``families.make(family)`` builds its tiny model."""
    return request.param


@pytest.fixture(params=MOE)
def moe_family(request: pytest.FixtureRequest) -> str:
    """The name of each mixture-of-experts family in turn."""
    return request.param


@pytest.fixture(params=[*NAMES, *MOE])
def any_family(request: pytest.FixtureRequest) -> str:
    """The name of every family in turn, with experts or without."""
    return request.param
