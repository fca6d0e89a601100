"""Register the slice method as soon as PEFT is imported, so that ``import guided_ft`` is enough to load an adapter.

Importing PEFT here would cost every command-line call the seconds that torch takes to load.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AfterPeft(importlib.abc.MetaPathFinder):
    """Finds the module ``peft`` once, and has the slice method registered when it has been loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "peft":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("peft")
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            importlib.import_module("guided_ft.slice")

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register_with_peft() -> None:
    """Register now if PEFT is loaded, or else when it will be."""
    if "peft" in sys.modules:
        importlib.import_module("guided_ft.slice")
    elif not any(isinstance(finder, _AfterPeft) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterPeft())
