"""The options of a method, read from its source file: importing it would import torch."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from .catalogue import CATALOGUE

SHARED = ("combine", "weight", "verify")
"""Options of ``localize`` itself that go with every method."""

_LOCALIZE = {"progress", "kinds", "seed"}
"""What ``localize`` gives to a method of its own accord."""


@functools.cache
def option_names(method: str) -> frozenset[str] | None:
    """The options that a recipe may give a method; None where they are not known (a method registered by a script)."""
    function = CATALOGUE[method].function if method in CATALOGUE else None
    if not isinstance(function, str):
        return None
    module, name = function.split(":")
    found = _keywords(Path(__file__).parent / "methods" / f"{module}.py", name)
    return None if found is None else frozenset(found - _LOCALIZE) | {*SHARED}


def _keywords(path: Path, name: str) -> set[str] | None:
    """Keyword-only parameters of a function, or of a class's ``__init__`` or the one that it inherits."""
    if not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name), None)
    if isinstance(node, ast.FunctionDef):
        return _named(node)
    if node is None:
        return _imported(path, tree, name)
    own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if own is not None:
        return _named(own)
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    found = [set() if base == "Recorder" else _keywords(path, base) for base in bases]
    return next((each for each in found if each is not None), None)


def _imported(path: Path, tree: ast.Module, name: str) -> set[str] | None:
    """Keyword-only parameters of a class that is imported from another module of ours."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            folder = path.parents[max(node.level - 1, 0)]
            return _keywords(folder.joinpath(*node.module.split(".")).with_suffix(".py"), name)
    return None


def _named(node: ast.FunctionDef) -> set[str] | None:
    return None if node.args.kwarg else {argument.arg for argument in node.args.kwonlyargs}
