"""The plan of the house: imports go down from floor to floor, and nothing goes round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "guided_ft"

DOOR = "__init__"
"""The package's own door, which names what stands in any room."""

FLOORS = (
    ("__main__",),
    ("cli",),
    (DOOR,),
    ("use", "pipeline", "estimate"),
    ("callback", "recipe", "export", "proofs"),
    ("plan",),
    ("scorers", "engine", "report", "models"),
    ("selection", "task"),
    ("anatomy", "slice", "system"),
    ("errors",),
)
"""Rooms, and files of the hall, from the top. A room may use what is on its own floor, too, but not in a circle."""

FLOOR = {room: -number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules(package: Path) -> dict[str, Path]:
    """The path of each module of a package, by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def homes(package: Path) -> dict[str, str]:
    """The module behind each name that a package's door hands out."""
    door = package / "__init__.pyi"
    text = (door if door.exists() else package / "__init__.py").read_text(encoding="utf-8")
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            base = f"{package.name}.{node.module}" if node.module else package.name
            found.update({a.asname or a.name: base if node.module else f"{base}.{a.name}" for a in node.names})
    return found


def imported(module: str, path: Path, known: dict[str, Path], behind: dict[str, str]) -> Iterator[str]:
    """The modules of the same package that a module imports, inside functions and for type checking too.

    What comes through the package's door comes from where it lives; the door as a whole hands out everything.
    """
    root = module.split(".")[0]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if base == root and name not in known:
                    yield behind.get(alias.name, root)
                elif name in known or base in known:
                    yield name if name in known else base


def arrows(package: Path) -> dict[str, set[str]]:
    known, behind = modules(package), homes(package)
    return {
        module: set(imported(module, path, known, behind)) - {module}
        for module, path in known.items()
        if module != package.name
    }


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else DOOR


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Every arrow from a lower floor to a higher one, and every room that stands on no floor."""
    found = [f"{m}: on no floor" for m in graph if room_of(m) not in FLOOR]
    for module, targets in graph.items():
        floor = FLOOR.get(room_of(module), 0)
        found += [f"{module} -> {t}" for t in targets if FLOOR.get(room_of(t), 0) > floor]
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
        room = room_of(module)
        found.setdefault(room, set()).update({room_of(t) for t in targets} - {room})
    return found


def test_rooms_and_floors_are_few() -> None:
    graph = rooms(arrows(PACKAGE))

    def height(room: str) -> int:
        return 1 + max(map(height, graph.get(room, set()) - {DOOR}), default=0)

    assert len(graph) <= 20
    assert max(map(height, graph)) <= 9


def test_every_import_goes_down() -> None:
    assert upward(arrows(PACKAGE)) == []


CAMPAIGNS = PACKAGE.parent / "benchmarks" / "side_by_side"


@pytest.mark.parametrize("package", [PACKAGE, CAMPAIGNS], ids=lambda p: p.name)
def test_no_file_is_in_a_circle(package: Path) -> None:
    assert circle(arrows(package)) == []


@pytest.mark.parametrize("package", [PACKAGE, CAMPAIGNS], ids=lambda p: p.name)
def test_no_room_is_in_a_circle(package: Path) -> None:
    assert circle(rooms(arrows(package))) == []


def test_the_hall_of_the_campaigns_is_empty() -> None:
    assert sorted(path.name for path in CAMPAIGNS.glob("*.py")) == ["__init__.py", "__main__.py"]


def test_no_file_is_larger_than_a_screenful_or_five() -> None:
    long = {
        str(p.relative_to(PACKAGE)): n
        for p in modules(PACKAGE).values()
        if (n := len(p.read_text().splitlines())) > 270
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
        (
            {
                "task/task": "def f():\n    from .. import run",
                "__init__": "from .pipeline.go import run",
                "pipeline/go": "",
            },
            "task.task -> toy.pipeline.go",
        ),
        (
            {"task/task": "from toy import run", "__init__": "from .pipeline.go import run", "pipeline/go": ""},
            "task.task -> toy.pipeline.go",
        ),
        ({"task/task": "def f():\n    import toy\n    toy.run()"}, "task.task -> toy"),
        ({"task/task": "from .. import __version__"}, "task.task -> toy"),
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
