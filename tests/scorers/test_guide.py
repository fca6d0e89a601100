"""What ``guided-ft methods`` says of costs is what the scorers ask for."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from families import make

import guided_ft.scorers
from guided_ft import Anatomy
from guided_ft.scorers.catalogue import CATALOGUE
from guided_ft.scorers.watch.passes import FORWARD, WEIGHTS
from guided_ft.scorers.watch.recorder import Recorder

RECORDERS = [
    name
    for name, method in CATALOGUE.items()
    if inspect.isclass(method.load()) and issubclass(method.load(), Recorder) and not method.compares
]


def test_every_method_has_its_lines():
    assert all(method.cost and method.when and method.help for method in CATALOGUE.values())
    assert {"magnitude", "random"} <= {name for name, method in CATALOGUE.items() if method.cost == "none"}
    assert not any(method.needs_data for method in CATALOGUE.values() if method.cost == "none")
    assert all(
        method.cost.endswith("each set") for m, method in CATALOGUE.items() if method.compares and m != "natural_gain"
    )


def test_the_table_of_the_docs_has_every_method_with_the_kinds_that_it_scores():
    page = Path(guided_ft.scorers.__file__).parent / "README.md"
    told = {}
    for cells in (line.split("|")[1:-1] for line in page.read_text(encoding="utf-8").splitlines()):
        names = re.findall(r"`(\w+)`", cells[0]) if len(cells) == 5 else []
        kinds = [some.split() for some in cells[3].split(";")] if names else []
        told |= zip(names, kinds if len(kinds) > 1 else kinds * len(names), strict=True)
    assert told == {name: [kind[0].upper() for kind in method.kinds] for name, method in CATALOGUE.items()}


@pytest.mark.parametrize("name", RECORDERS)
def test_the_passes_are_those_that_a_recorder_plays(name):
    method = CATALOGUE[name]
    anatomy = Anatomy.of(make("llama"))
    program = method.load()(anatomy, method.kinds).program
    count = sum(one.cost for one, _ in program)
    backward = any(one != FORWARD for one, _ in program)
    weights = any(one == WEIGHTS for one, _ in program)
    wanted = f"{count} F" + "+B" * backward + ", weights too" * weights
    assert method.cost.split(" (")[0] == wanted
