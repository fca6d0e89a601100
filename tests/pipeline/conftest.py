"""One finished run for all tests that begin with one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import recipe

from guided_ft import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows and a finished run in ``run``; ``tiny_run.again`` copies it."""
    folder = tmp_path_factory.mktemp("finished")
    run(recipe(folder), quiet=True)
    return folder
