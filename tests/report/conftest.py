"""What the tests of the report share beside ``reports``: one page, made anew for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from reports import Page, make

from guided_ft.report import write_report


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(make(tmp_path)))
