"""The plan of the house: imports go down from floor to floor, and nothing goes round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "guided_ft"

FLOORS = (
    ("__main__",),
    ("cli",),
    ("explore", "use"),
    ("pipeline",),
    ("callback", "recipe", "estimate", "export", "proofs"),
    ("scorers", "intervene", "engine", "plan", "report"),
    ("selection", "task", "models"),
    ("anatomy", "slice", "system"),
    ("errors",),
)
"""Rooms, and files of the hall, from the top. A room may use what is on its own floor, too, but not in a circle."""

# They name what stands above them: the first hands out the public names, the second wakes the slice method for PEFT.
DOORS = {"guided_ft", "guided_ft._peft_hook"}

FLOOR = {room: -number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules(package: Path) -> dict[str, Path]:
    """The path of each module of a package, by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the same package that a module imports, inside functions and for type checking too."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name in known or base in known:
                    yield name if name in known else base


def arrows(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    doors = DOORS | {package.name}
    return {
        module: set(imported(module, path, known)) - {module} - doors
        for module, path in known.items()
        if module not in doors
    }


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Every arrow from a lower floor to a higher one, and every room that stands on no floor."""
    found = [f"{m}: on no floor" for m in graph if m.split(".")[1] not in FLOOR]
    for module, targets in graph.items():
        floor = FLOOR.get(module.split(".")[1], 0)
        found += [f"{module} -> {t}" for t in targets if FLOOR.get(t.split(".")[1], 0) > floor]
    return sorted(found)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, if there is any."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := walk(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        room = module.split(".")[1]
        found.setdefault(room, set()).update({t.split(".")[1] for t in targets} - {room})
    return found


def test_every_import_goes_down() -> None:
    assert upward(arrows(PACKAGE)) == []


def test_no_file_is_in_a_circle() -> None:
    assert circle(arrows(PACKAGE)) == []


def test_no_room_is_in_a_circle() -> None:
    assert circle(rooms(arrows(PACKAGE))) == []


def test_no_file_is_larger_than_a_screenful_or_five() -> None:
    long = {
        str(p.relative_to(PACKAGE)): n
        for p in modules(PACKAGE).values()
        if (n := len(p.read_text().splitlines())) > 300
    }
    assert long == {}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"errors": "", "task/task": "from ..pipeline import run", "pipeline/run": ""}, "task.task -> toy.pipeline"),
        (
            {"task/task": "def f():\n    from ..pipeline.run import x", "pipeline/run": "x = 1"},
            "task.task -> toy.pipeline.run",
        ),
        ({"attic/x": ""}, "attic.x: on no floor"),
    ],
)
def test_an_arrow_up_is_seen(tmp_path: Path, files: dict[str, str], found: str) -> None:
    assert any(found in line for line in upward(arrows(_toy(tmp_path, files))))


def test_a_circle_is_seen(tmp_path: Path) -> None:
    graph = arrows(
        _toy(tmp_path, {"task/a": "from .b import x", "task/b": "from . import c", "task/c": "import toy.task.a"})
    )
    assert set(circle(graph)) == {"toy.task.a", "toy.task.b", "toy.task.c"}
    sideways = arrows(
        _toy(tmp_path / "2", {"task/a": "from ..models import x", "models": "from .task import b", "task/b": ""})
    )
    assert circle(sideways) == []
    assert set(circle(rooms(sideways))) == {"task", "models"}


def _toy(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "toy"
    for name, text in files.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        for room in (package, path.parent):
            (room / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")
    return package
