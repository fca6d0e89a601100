"""Modules that are loaded when they are wanted: a package's public names, and what follows another import."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_PUBLIC = re.compile(r"^from \.([\w.]*) import (\w+) as \2$", re.MULTILINE)
"""A line of a stub that makes a name public: the form in which type checkers take it for that."""


def by_stub(package: str, file: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__all__``, ``__getattr__`` and ``__dir__`` of a package: the names in the stub beside it.

    Args:
        package: ``__name__`` of the package.
        file: its ``__file__``.
    """
    stub = Path(file).with_suffix(".pyi").read_text(encoding="utf-8")
    homes = {name: home for home, name in _PUBLIC.findall(stub)}
    return sorted(homes), lazily(package, homes), lambda: sorted({*vars(sys.modules[package]), *homes})


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that finds each name in its home.

    Args:
        package: ``__name__`` of the package.
        homes: module of each name, relative to the package; "" for a module that is itself the name.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(f".{homes[name] or name}", package)
        value = getattr(home, name) if homes[name] else home
        setattr(sys.modules[package], name, value)
        return value

    return load


def when_imported(name: str, then: str) -> None:
    """Import a module as soon as another one is imported: now, if that has been done."""
    if name in sys.modules:
        importlib.import_module(then)
    elif not any(isinstance(finder, _After) and finder.pair == (name, then) for finder in sys.meta_path):
        sys.meta_path.insert(0, _After((name, then)))


class _After(importlib.abc.MetaPathFinder):
    """Finds a module once, and has another one imported when it has been loaded."""

    def __init__(self, pair: tuple[str, str]) -> None:
        self.pair = pair

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        awaited, then = self.pair
        if name != awaited:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(awaited)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_both(module: ModuleType) -> None:
            load(module)
            importlib.import_module(then)

        spec.loader.exec_module = load_both  # type: ignore[method-assign]
        return spec
