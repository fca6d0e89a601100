"""The plan of the tests: they mirror the rooms of the package, and no file of theirs is long or leans on another."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "guided_ft"
FILES = sorted(TESTS.rglob("*.py"))
BESIDE = {"laws", "tools", "mutants", "side_by_side"}
"""Folders of no room: laws of the whole house, what tests share, faults that they must catch, and the campaigns of ``benchmarks/side_by_side``."""


def test_no_test_file_is_over_400_lines() -> None:
    lines = {str(path.relative_to(TESTS)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_tests_lie_in_folders_named_after_the_rooms() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.relative_to(TESTS).parts[0] for path in FILES if len(path.relative_to(TESTS).parts) > 1}
    assert folders - BESIDE - rooms == set()
    nested = [str(path.relative_to(TESTS)) for path in FILES if len(path.relative_to(TESTS).parts) > 2]
    assert nested == []


def test_no_test_imports_another_test() -> None:
    """What two tests share lies in ``tests/tools``: a test can be moved or dropped without breaking another."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [f"{path.name}: {name}" for name in names if name.startswith("test_")]
    assert found == []


def test_no_test_is_content_with_any_error() -> None:
    """Such a test passes when the code is broken in another way."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises" and node.args:
                named = {ast.unparse(each) for each in ast.walk(node.args[0]) if isinstance(each, ast.Name)}
                found += [f"{path.name}:{node.lineno}" for name in named & {"Exception", "BaseException"}]
    assert found == []
