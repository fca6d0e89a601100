"""What ``import guided_ft`` alone reaches: README and model cards write it so."""

from __future__ import annotations

import subprocess
import sys

import pytest

import guided_ft

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
