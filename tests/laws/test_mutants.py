"""Every deliberate fault of ``tests/mutants`` can still be made, and names tests that there are."""

from __future__ import annotations

import ast

import mutants
import pytest

ALL = mutants.mutants()


@pytest.mark.parametrize("mutant", ALL, ids=[mutant.name for mutant in ALL])
def test_it_applies_and_still_is_python(mutant):
    ast.parse(mutant.broken())
    assert mutant.tests
    for test in mutant.tests:
        path, *names = test.split("[")[0].split("::")
        tree = ast.parse((mutants.ROOT / path).read_text(encoding="utf-8"))
        assert set(names) <= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test


def test_there_are_enough_and_each_has_a_name_of_its_own():
    assert len(ALL) >= 60
    assert len({mutant.name for mutant in ALL}) == len(ALL)


def test_a_fault_that_no_longer_applies_is_seen():
    with pytest.raises(ValueError, match="holds 0 times"):
        mutants.Mutant("x", "engine", "no such line", "", ("x",)).broken()
