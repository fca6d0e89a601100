"""The page of promises is what its table and the figures say, and each names tests that there are."""

from __future__ import annotations

import ast

import promises
import pytest
from faults import FAULTS

ALL = [promise for group in promises.PROMISES.values() for promise in group]
SEEN = [fault for group in FAULTS.values() for fault in group]


def test_the_page_is_what_the_table_says():
    assert promises.PAGE.read_text(encoding="utf-8") == promises.text(), "run: python tests/tools/promises.py"


@pytest.mark.parametrize("promise", ALL, ids=[promise.text[:40] for promise in ALL])
def test_what_holds_it_is_there(promise):
    tests = promises.PAGE.parent
    assert promise.tests
    for path in promise.tests:
        assert (tests / path).is_file(), path
    for word in promise.command.split():
        if word.endswith(".py"):
            assert (tests.parent / word).is_file(), word


@pytest.mark.parametrize("fault", SEEN, ids=[fault.seen[:40] for fault in SEEN])
def test_every_fault_has_its_tests(fault):
    assert fault.tests
    for test in fault.tests:
        path, name = test.split("::")
        tree = ast.parse((promises.PAGE.parent / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
