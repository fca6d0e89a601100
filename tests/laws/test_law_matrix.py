"""Every law of ``law_matrix.py`` on every architecture; and the page says what the table says."""

from __future__ import annotations

import re

import law_matrix
import pytest

from guided_ft.errors import GuidedError

LAWS = [law for table in law_matrix.LAWS.values() for law in table]
CELLS = [
    pytest.param(law, name, marks=[pytest.mark.slow] * bool(law.only), id=f"{law.name}-{name}")
    for law in LAWS
    for name in law_matrix.FAMILIES
    if law.tested_on(name)
]


@pytest.mark.parametrize(("law", "name"), CELLS)
def test_law(law, name, tmp_path):
    if name in law.refused:
        with pytest.raises(GuidedError, match=f"^{re.escape(law.refused[name])}$"):
            law.check(name, tmp_path)
        assert not list(tmp_path.iterdir()), "refused, but something was written"
    else:
        law.check(name, tmp_path)


def test_the_page_is_what_the_table_says():
    assert law_matrix.PAGE.read_text(encoding="utf-8") == law_matrix.text(), "run: python tests/tools/law_matrix.py"


def test_no_law_is_listed_twice():
    assert len({law.name for law in LAWS}) == len(LAWS)
