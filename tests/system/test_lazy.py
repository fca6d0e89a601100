"""Names of a package are loaded when they are asked for, and a module when another one is."""

from __future__ import annotations

import importlib
import sys

import pytest

from guided_ft.system.lazy import by_stub, when_imported


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Make a package ``toy_house`` of the given files."""
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)

    def make(files):
        for name, text in files.items():
            path = tmp_path / "toy_house" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    yield make
    sys.meta_path[:] = finders
    for name in [m for m in sys.modules if m.split(".")[0] == "toy_house"]:
        del sys.modules[name]


def test_a_name_of_the_stub_is_loaded_on_first_use(toy):
    stub = "from . import attic as attic\nfrom .cellar import wine as wine\nfrom .cellar import hidden\n"
    toy({"__init__.py": "", "__init__.pyi": stub, "attic.py": "", "cellar.py": "wine = 3\nhidden = 4\n"})
    package = importlib.import_module("toy_house")
    names, load, listed = by_stub("toy_house", package.__file__)
    assert names == ["attic", "wine"] == [n for n in listed() if not n.startswith("__")]
    assert "toy_house.cellar" not in sys.modules
    assert load("wine") == package.wine == 3
    assert load("attic") is sys.modules["toy_house.attic"]
    with pytest.raises(AttributeError, match="no attribute 'hidden'"):
        load("hidden")


@pytest.mark.parametrize("before", [True, False])
def test_a_module_follows_another(toy, before):
    toy({"__init__.py": "", "first.py": "", "then.py": "import sys\nassert 'toy_house.first' in sys.modules\n"})
    if before:
        importlib.import_module("toy_house.first")
    for _ in range(2):
        when_imported("toy_house.first", "toy_house.then")
    assert ("toy_house.then" in sys.modules) == before
    importlib.import_module("toy_house.first")
    assert "toy_house.then" in sys.modules
