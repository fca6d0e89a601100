"""One way to say what a test expects to be refused."""

from __future__ import annotations

import re

import pytest

from guided_ft.errors import GuidedError


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")
