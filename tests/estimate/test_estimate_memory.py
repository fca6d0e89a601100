"""The estimate against the memory of a real process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from guided_ft.estimate.estimate import estimate
from guided_ft.system.places import EMBEDDED, cache_folder

SMOLLM2 = "smollm2-135m-instruct"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's memory figures")
@pytest.mark.parametrize("key", ["full", "lora", "slice", "slice_top"])
def test_the_real_model_takes_as_much_memory_as_said(key):
    if not (cache_folder() / SMOLLM2).is_dir() and __import__("importlib").util.find_spec(EMBEDDED[SMOLLM2][0]) is None:
        pytest.skip("the model is not installed")
    budget = 2_421_270
    row = next(row for row in estimate(SMOLLM2, budget, rows=8, length=32).rows if row.key == key)
    assert row.memory.peak == pytest.approx(taken(SMOLLM2, key, 8, 32, budget), rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's memory figures")
@pytest.mark.parametrize("key", ["full", "lora", "slice", "slice_top"])
def test_a_mixture_of_experts_takes_as_much_memory_as_said(key, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 8, "vocab_size": 8192}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 4}
    AutoConfig.for_model("olmoe", **sizes).save_pretrained(tmp_path)
    name = str(tmp_path / "config.json")
    row = next(row for row in estimate(name, 2_000_000, rows=8, length=128).rows if row.key == key)
    assert row.memory.peak == pytest.approx(taken(name, key, 8, 128, 2_000_000), rel=0.05)


def taken(name: str, key: str, rows: int, length: int, budget: int) -> int:
    """Bytes that a process of its own takes for a model and for training it, at most."""
    script = Path(__file__).parents[1] / "tools" / "memory_run.py"
    done = subprocess.run(
        [sys.executable, str(script), name, key, str(rows), str(length), str(budget)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(script.parent.parent)},
    )
    found = json.loads(re.findall(r"^{.*}$", done.stdout, re.M)[-1])
    return found["peak"] - found["base"]
