"""Whatever is given as a recipe loads or is refused in lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guided_ft.errors import GuidedError
from guided_ft.recipe import strict_yaml
from guided_ft.recipe.recipe import Recipe, keys
from recipes import plain_text, scalars, tricky, words

LINE = re.compile(r"recipe\.yaml: .+ \(.+\)")

values = st.recursive(
    scalars | tricky | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | plain_text, inner, max_size=3),
    max_leaves=6,
)

near_misses = st.dictionaries(
    words | plain_text, values | st.dictionaries(words | plain_text, values, max_size=4), max_size=6
)

yaml_text = st.text(
    st.sampled_from("ab: -[]{}&*!%@`'\"|>#?,\n\t\\0.5e~<=x\x00\x85\u2028") | st.characters(), max_size=60
)


def _loads_or_says_why(path: Path) -> None:
    try:
        assert isinstance(Recipe.load(path), Recipe)
    except GuidedError as error:
        for line in str(error).split("\n"):
            assert line.isprintable()
            assert LINE.fullmatch(line)
            assert len(line) < 400
            assert "pydantic" not in line


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=80) | yaml_text.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_load_or_are_refused_in_lines(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(raw)
    _loads_or_says_why(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=near_misses)
def test_any_data_loads_or_is_refused_in_lines(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(strict_yaml.dump(data), encoding="utf-8")
    _loads_or_says_why(path)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.builds("{}={}".format, st.sampled_from(list(keys())) | plain_text, yaml_text) | yaml_text, max_size=3)
)
def test_any_overrides_load_or_are_refused_in_lines(overrides: list[str]) -> None:
    try:
        assert isinstance(Recipe.load("quickstart", overrides), Recipe)
    except GuidedError as error:
        for line in str(error).split("\n"):
            assert line.isprintable()
            assert re.fullmatch(r"(override|quickstart\.yaml): .+ \(.+\)", line)
