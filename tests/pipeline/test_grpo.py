"""GRPO through the pipeline: every mode, rewards by name and of one's own, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_run

from guided_ft.errors import GuidedError
from guided_ft.pipeline import run
from guided_ft.recipe.recipe import Recipe
from guided_ft.report import story
from guided_ft.report.record import read_run
from guided_ft.task import rewards

GRPO = {"trainer": "grpo", "reward": "near_number+bare_number", "steps": 3, "batch_size": 4}


def grpo(folder: Path, **changes) -> Recipe:
    train = GRPO | changes.pop("train", {})
    return tiny_run.recipe(folder, train=train, control=changes.pop("control", "none"), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["slice", "lora", "freeze", "subspace"])
def test_every_mode_learns_from_rewards_and_moves_nothing_else(tmp_path: Path, mode: str) -> None:
    train = {"mode": mode, "beta": 0.04}
    record = run(grpo(tmp_path, train=train, select={"budget": "60%"}, control="random"), quiet=True)
    assert {check["ok"] for check in record["checks"]} == {True}
    assert [step for step, _ in record["reward"]] == [1, 2, 3]
    assert all(0 <= reward <= 2 for _, reward in record["reward"])
    assert "exact_match" in record["after"]
    assert "Reward" in (tmp_path / "run" / "report.html").read_text()
    assert story(read_run(tmp_path / "run"))


def test_the_reward_that_is_named_is_what_training_raises(tmp_path: Path, monkeypatch) -> None:
    asked: list[tuple[str, str]] = []

    def no_plus(found: str, expected: str) -> float:
        asked.append((found, expected))
        return float("+" not in found)

    monkeypatch.setattr(rewards, "REWARDS", rewards.REWARDS)
    monkeypatch.setitem(rewards.REWARDS, "no_plus", no_plus)
    record = run(grpo(tmp_path, train={"reward": "no_plus", "steps": 2}), quiet=True)
    assert len(asked) == 2 * 4
    assert {expected.strip() for _, expected in asked} <= {str(4 * i) for i in range(1, 41)}
    first = [float("+" not in found) for found, _ in asked[:4]]
    assert record["reward"][0][1] == pytest.approx(sum(first) / 4)


def test_a_reward_that_is_not_finite_stops_the_run_with_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(rewards.REWARDS, "broken", lambda found, expected: math.nan)
    with pytest.raises(GuidedError, match=r"^train\.reward: broken gave nan for "):
        run(grpo(tmp_path, train={"reward": "broken"}), quiet=True)


def test_rewards_say_what_they_promise() -> None:
    table = rewards.REWARDS
    assert [table["exact_match"](found, " 12") for found in ("12", " 12 ", "12.", "so 12")] == [1, 1, 0, 0]
    assert [table["number"](found, "= 1,200") for found in ("1200", "3 * 400 = 1,200", "120", "")] == [1, 1, 0, 0]
    assert [table["near_number"](found, "12") for found in ("12", "so 10", "-12", "many")] == [1, 1 / 3, 1 / 25, 0]
    assert [table["bare_number"](found, "12") for found in ("7", " -1,000.5 ", "7 or 8", "")] == [1, 1, 0, 0]


def test_a_reward_of_ones_own_is_registered_once(monkeypatch) -> None:
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))
    rewards.register("short", lambda found, expected: 1 / (1 + len(found)))
    assert Recipe.from_dict({"train": {"trainer": "grpo", "reward": "number + short"}, "data": {"name": "x"}})
    with pytest.raises(GuidedError, match=r"^register: the reward 'short' is taken"):
        rewards.register("short", len)
    with pytest.raises(GuidedError, match=r"^register: 'a\+b' cannot name a reward"):
        rewards.register("a+b", len)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"trainer": "grpo"}, "train.reward: missing, trainer grpo needs one (write reward: exact_match)"),
        ({"reward": "number"}, "train.reward: trainer sft has none (remove it, or write trainer: grpo)"),
        ({"trainer": "grpo", "reward": "numbr"}, "train.reward: unknown value 'numbr' (did you mean 'number'?)"),
        (
            {"trainer": "grpo", "reward": "number", "label_smoothing": 0.1},
            "train.label_smoothing: unknown key (trainer dpo has it)",
        ),
    ],
)
def test_a_mistake_is_one_line(train: dict, said: str) -> None:
    with pytest.raises(GuidedError) as caught:
        Recipe.from_dict({"train": train, "data": {"name": "chain_sum"}})
    assert str(caught.value) == f"recipe: {said}"


def test_rows_without_a_right_answer_are_refused(tmp_path: Path) -> None:
    for name, text, said in (
        ("text.txt", "one\ntwo\nthree\n", "the rows ask nothing that has a right answer, which trainer grpo rewards"),
        ("pairs.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "the rows are pairs"),
    ):
        (tmp_path / name).write_text(text)
        recipe = grpo(tmp_path, data={"source": "file", "path": str(tmp_path / name)})
        with pytest.raises(GuidedError, match=f"^data: {said}"):
            run(recipe, quiet=True)


def test_groups_that_do_not_fill_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuidedError, match=r"^train: GRPOConfig refuses it .*divisible"):
        run(grpo(tmp_path, train={"num_generations": 3}), quiet=True)
