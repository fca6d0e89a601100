"""One set of defaults: whoever asks without saying how is answered the same way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import families
import pytest
import tiny

from guided_ft import GuidedCallback, GuidedError, Plan, Recipe, Task, localize, select
from guided_ft.estimate.estimate import estimate
from guided_ft.pipeline import stages
from guided_ft.plan.plan import DEFAULT_MODE
from guided_ft.recipe.recipe import keys
from guided_ft.recipe.trl_config import Guided
from guided_ft.scorers.settings import LocalizeOptions
from guided_ft.selection.settings import SelectOptions

ONLY_SOME = {
    # Of the words of a face, those that others lack: what a Task holds already, and what several methods share.
    "localize": {"examples", "batch_size", "options"},
    "callback": {"kinds", "combine", "weight", "verify", "batch_size", "examples"},
    "recipe": {"kinds", "combine", "weight", "verify"},
}
"""Options of localization that a face does not name: they have one meaning and one default all the same."""


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def recipe_defaults(section: str) -> dict[str, Any]:
    found = {
        path.removeprefix(f"{section}."): f.default for path, f in keys().items() if path.startswith(f"{section}.")
    }
    return found | {"seed": keys()["seed"].default}


def test_every_face_localizes_alike() -> None:
    asked = vars(LocalizeOptions())
    faces = {
        "localize": defaults(localize),
        "callback": defaults(GuidedCallback) | {"options": defaults(GuidedCallback)["options"] or {}},
        "recipe": recipe_defaults("localize"),
    }
    for name, face in faces.items():
        named = {key: value for key, value in asked.items() if key not in ONLY_SOME[name]}
        assert {key: face[key] for key in named} == named, name
    assert vars(GuidedCallback(task=tiny.sums(2))._request.localize) == asked


def test_every_face_selects_alike() -> None:
    asked = vars(SelectOptions())
    faces = {"select": defaults(select), "callback": defaults(GuidedCallback), "recipe": recipe_defaults("select")}
    for name, face in faces.items():
        assert {key: face[key] for key in asked} == asked, name
    assert vars(GuidedCallback(task=tiny.sums(2))._request.select) == asked
    assert defaults(estimate)["budget"] is None


def test_every_face_trains_alike() -> None:
    plan, callback, recipe = defaults(Plan), defaults(GuidedCallback), recipe_defaults("train")
    for key in ("rank", "lr_scale"):
        assert plan[key] == callback[key] == recipe[key], key
    # A plan is made of something that is chosen already.
    assert callback["mode"] == recipe["mode"] == Guided().mode == DEFAULT_MODE
    assert callback["learning_rate"] == recipe["learning_rate"] == "auto"
    assert not callback["mode_options"]
    assert recipe["mode_options"] == {}


def test_the_pipeline_adds_no_defaults_of_its_own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recipe of defaults asks of a mode is what the options say."""
    asked: dict[str, Any] = {}

    class Stop(Exception):
        pass

    class Way:
        def localize(self, model: Any, task: Any, **arguments: Any) -> Any:
            asked.update(arguments)
            raise Stop

        def choose(self, scores: Any, **arguments: Any) -> Any:
            asked.update(arguments)
            raise Stop

    run = stages.Run(Recipe(data={"name": "chain_sum"}), folder=tmp_path)
    monkeypatch.setattr(stages.Run, "way", Way())
    monkeypatch.setattr(stages.Run, "model", lambda self: None)
    monkeypatch.setattr(run, "tokenizer", tiny.tokenizer(), raising=False)
    with pytest.raises(Stop):
        stages.localize(run)
    wanted = LocalizeOptions().arguments()
    assert {key: asked[key] for key in wanted if key != "kinds"} == {k: v for k, v in wanted.items() if k != "kinds"}
    asked.clear()
    with pytest.raises(Stop):
        stages._chosen(run, None, SelectOptions.strategy, 0)
    assert asked == SelectOptions().arguments()


def test_the_budget_of_an_estimate_is_that_of_recipes(tmp_path) -> None:
    families.make("llama", layers=40).config.save_pretrained(tmp_path)
    found = estimate(str(tmp_path))
    assert found.budget == int(found.parameters * float(SelectOptions.budget.rstrip("%")) / 100)


def test_options_say_what_they_are() -> None:
    task = Task.from_dataset(tiny.sums(3), tiny.tokenizer())
    with_task = LocalizeOptions(retain=task, options={"against": [task]}).identity()
    assert with_task["retain"] == task.hash
    assert with_task["options"] == {"against": [task.hash]}
    assert LocalizeOptions().identity() != LocalizeOptions(options={"replace": "mean"}).identity()
    with pytest.raises(GuidedError, match=r"options: 'retain' is no option of a method \(give it as retain\)"):
        LocalizeOptions(options={"retain": None})
