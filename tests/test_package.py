"""What ``import guided_ft`` alone reaches: README and model cards write it so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires

import figures
import pytest
import torch
import versions
from families import make

import guided_ft
from guided_ft import GuidedError, load_model

REACHED = {
    "export.to_lora": "guided_ft.export.lora",
    "load_model": "guided_ft.models",
    "load_tokenizer": "guided_ft.task.tokenizer",
}


@pytest.mark.parametrize("name", REACHED)
def test_a_fresh_import_reaches(name):
    code = f"import guided_ft; print(guided_ft.{name}.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [REACHED[name]]


def test_every_public_name_is_there_and_no_other():
    assert all(getattr(guided_ft, name) is not None for name in guided_ft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        guided_ft.nothing  # noqa: B018


def test_the_lowest_versions_that_are_declared_are_those_that_were_tried():
    tried = figures.read(versions.NAME)["found"]["lowest"]
    assert tried.endswith(" 0 failed")
    declared = [each.partition(";")[0] for each in requires("guided-ft") or ()]
    for name in versions.SHOWN:
        [bound] = {each.removeprefix(f"{name}>=") for each in declared if each.startswith(f"{name}>=")}
        assert re.search(rf"\b{name} {re.escape(bound)}(\.0)*[,)]", tried), f"{name}>={bound} was not tried: {tried}"


def test_the_closing_line_of_pytest_is_read():
    assert versions.counted("...\n4 failed, 4120 passed, 71 skipped in 9.1s\n") == {"passed": 4120, "failed": 4}
    assert versions.counted("2 passed, 3 errors in 1s")["error"] == 3
    with pytest.raises(ValueError, match="closing line"):
        versions.counted("Segmentation fault")


def test_a_precision_may_be_written_as_users_of_torch_do(tmp_path):
    make("llama").save_pretrained(tmp_path)
    for dtype in ("bfloat16", torch.bfloat16):
        assert load_model(str(tmp_path), dtype=dtype).dtype == torch.bfloat16
    with pytest.raises(GuidedError, match=r"dtype: unknown value 'bf16' \(did you mean"):
        load_model(str(tmp_path), dtype="bf16")
