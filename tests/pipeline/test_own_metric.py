"""A metric of one's own: registered by name, measured before and after, and part of what a stage depends on."""

from __future__ import annotations

import pytest
import tiny_run

from guided_ft.errors import GuidedError
from guided_ft.pipeline import run
from guided_ft.pipeline.compare.compare import compare
from guided_ft.pipeline.fingerprint import stage_keys
from guided_ft.recipe.recipe import Recipe
from guided_ft.scorers import catalogue
from guided_ft.task import measures


def letters_error(found, right):
    """Letters that answers are too long or too short, on average."""
    return sum(abs(len(f) - len(r)) for f, r in zip(found, right, strict=True)) / len(right)


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(measures, "OWN", {})
    measures.register("letters_error", letters_error)


def test_it_is_measured_before_and_after(own, tmp_path):
    seen = []
    measures.register("seen", lambda found, right: seen.append((found, right)) or len(found))
    recipe = tiny_run.recipe(tmp_path, control="none", evaluate={"metric": "letters_error + exact_match + seen"})
    assert Recipe.from_dict(recipe.to_dict()).evaluate.metric == "letters_error+exact_match+seen"
    record = run(recipe, quiet=True)
    for when, (found, right) in zip(("before", "after"), seen, strict=True):
        assert list(record[when]) == ["letters_error", "exact_match", "seen", "examples"]
        assert record[when]["letters_error"] == letters_error(found, right)
        assert record[when]["seen"] == len(right) == 8
    assert all(text == text.strip() and int(text) % 4 == 0 for text in right)


def test_only_what_is_known_may_be_named(own):
    for metric, message in (
        ("letter_error", "unknown value 'letter_error' (did you mean 'letters_error'?)"),
        ("auto + letters_error", "unknown value 'auto'"),
        ("guided_ft.task.measures", "unknown value 'guided_ft.task.measures'"),
    ):
        with pytest.raises(GuidedError) as caught:
            Recipe.load("quickstart", [f"metric={metric}"])
        assert message in str(caught.value)
    for name, message in (("f1", "is taken"), ("letters_error", "is taken"), ("a b", "cannot name a metric")):
        with pytest.raises(GuidedError, match=message):
            measures.register(name, letters_error)


def test_one_that_fails_is_named(own):
    measures.register("broken", lambda found, right: found["no"])
    measures.register("silent", lambda found, right: None)
    for name in ("broken", "silent"):
        with pytest.raises(GuidedError, match=rf"evaluate.metric: {name} failed \(TypeError: "):
            measures.measured(name, ["1"], ["2"])


def test_an_installed_package_may_announce_one(own, monkeypatch):
    class Point:
        name = "announced"

        def load(self):
            return letters_error

    monkeypatch.setattr(measures, "entry_points", lambda group: [Point()] if group == "guided_ft.metrics" else [])
    assert Recipe.load("quickstart", ["metric=announced"]).evaluate.metric == "announced"
    assert measures.here_only("announced+letters_error+f1") == ["letters_error"]


def test_processes_that_would_not_know_it_are_not_begun(own, tmp_path):
    recipe = tiny_run.recipe(tmp_path, evaluate={"metric": "letters_error"})
    with pytest.raises(GuidedError, match=r"letters_error is known to this process only \(pass isolated=False"):
        compare(recipe)
    assert not (tmp_path / "run").exists()


def test_what_only_this_process_registered_is_told_by_name(tmp_path, monkeypatch):
    """Of a scorer, which is asked for by name in the same way."""
    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register("mine", lambda *a, **k: None)
    recipe = tiny_run.recipe(tmp_path, localize={"method": "mine"})
    message = r"compare: in a process of its own \(isolated=False needs none\): localize.method: unknown value 'mine'"
    with pytest.raises(GuidedError, match=message):
        compare(recipe, ["lora"], quiet=True)


def test_what_it_says_counts_where_it_is_written(own, tmp_path, monkeypatch):
    recipe = tiny_run.recipe(tmp_path, evaluate={"metric": "letters_error"})
    keys = stage_keys(recipe)
    other = tmp_path / "other.py"
    other.write_text("# another text of the same function")
    monkeypatch.setattr(measures.inspect, "getsourcefile", lambda function: str(other))
    changed = {stage for stage, key in stage_keys(recipe).items() if key != keys[stage]}
    assert changed == {"before", "evaluate", "control"}
