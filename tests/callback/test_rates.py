"""A script that leaves the trainer's default trains at the plan's rate, and is told so."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import tiny
import torch
from datasets import Dataset
from families import make
from trainers import MODES, STEPS, TRAINERS, base, digests, ready, sft
from transformers import TrainingArguments
from trl import DPOConfig, KTOConfig, SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, GuidedError
from guided_ft.callback.rates import choose_rate, own_rate
from guided_ft.plan.modes import PACE

DEFAULTS = {"sft": SFTConfig, "dpo": DPOConfig, "trainer": TrainingArguments}


def default(kind: type) -> float:
    return kind.__dataclass_fields__["learning_rate"].default


def rates(trainer) -> list[float]:
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


@pytest.fixture(scope="module")
def plan():
    return ready(make("llama"), "slice")


def arguments(folder, kind=SFTConfig, **options):
    return kind(str(folder), use_cpu=True, bf16=False, report_to=[], **options)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_becomes_the_plans_rate(name, plan, tmp_path, caplog):
    trainer = TRAINERS[name](
        base(tmp_path),
        tmp_path / "run",
        [GuidedCallback(plan)],
        learning_rate=default(DEFAULTS[name]),
        lr_scheduler_type="constant",
        save_strategy="no",
        max_steps=1,
    )
    trainer.train()
    rule = plan.learning_rate * PACE["dpo" if name == "dpo" else "sft"]
    assert rates(trainer) == [rule] == [trainer.optimizer.param_groups[0]["lr"]]
    told = [r.getMessage() for r in caplog.records if "learning rate" in r.getMessage()]
    assert len(told) == 1
    assert f"{rule:.3g} by the plan" in told[0]
    assert f"{default(DEFAULTS[name]):.3g} of {DEFAULTS[name].__name__}" in told[0]


@pytest.mark.parametrize("wanted", [None, 0.5])
def test_it_is_left_alone_or_set_to_a_number(wanted, plan, tmp_path, caplog):
    args = arguments(tmp_path)
    before = vars(args).copy()
    assert choose_rate(plan, args, wanted) == wanted
    assert vars(args) == before
    assert bool(caplog.records) == (wanted is not None and wanted > 10 * plan.learning_rate)


@pytest.mark.parametrize(("factor", "word"), [(20, "above"), (0.05, "below"), (5, None), (0.2, None)])
def test_a_rate_far_from_the_rule_is_kept_and_told(factor, word, plan, tmp_path, caplog):
    asked = factor * plan.learning_rate
    assert choose_rate(plan, arguments(tmp_path, learning_rate=asked), "auto") is None
    assert [f"far {word} the plan's" in r.getMessage() for r in caplog.records] == ([True] if word else [])


def test_arguments_that_serve_two_plans_get_the_rate_of_each(plan, tmp_path):
    args, small = arguments(tmp_path), ready(make("llama"), "freeze")
    rates = [choose_rate(each, args, "auto") for each in (small, plan)]
    assert rates == [small.learning_rate, plan.learning_rate]
    assert rates[0] != rates[1]


@dataclass
class Mine(SFTConfig):
    """As users write it."""

    learning_rate: float = 3e-2


def test_no_rate_is_set_where_there_is_no_rule_or_the_user_chose(plan, tmp_path, caplog):
    for args in (arguments(tmp_path, Mine), arguments(tmp_path, optim="sgd"), arguments(tmp_path, KTOConfig)):
        assert choose_rate(plan, args, "auto") is None
    assert sum("no rule for it" in r.getMessage() for r in caplog.records) == 2
    own, args = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2), arguments(tmp_path)
    assert choose_rate(plan, args, "auto", own_rate(None, own)) is None


def test_only_the_process_that_logs_tells(plan, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(SFTConfig, "should_log", False)
    with caplog.at_level(logging.INFO):
        choose_rate(plan, arguments(tmp_path), "auto")
    assert not caplog.records


def trainer_of(folder, args, callbacks, **options):
    rows = Dataset.from_list(tiny.sums(4))
    given = {"train_dataset": rows, "processing_class": tiny.tokenizer(), "callbacks": callbacks, **options}
    return SFTTrainer(base(folder), args=args, **given)


def test_the_users_arguments_have_the_rate_only_while_it_trains(plan, tmp_path):
    args = arguments(tmp_path, max_steps=2, save_strategy="no", logging_steps=1, lr_scheduler_type="constant")
    trainer = trainer_of(tmp_path, args, [GuidedCallback(plan)])
    args.max_steps = 1
    for _ in range(2):
        trainer.train()
    assert rates(trainer) == [plan.learning_rate]
    assert (trainer.args, args.learning_rate) == (args, default(SFTConfig))
    plain = trainer_of(tmp_path, args, [])
    plain.train()
    assert rates(plain) == [default(SFTConfig)]
    another = trainer_of(tmp_path, args, [GuidedCallback(plan)])
    args.learning_rate = 3e-3
    another.train()
    assert rates(another) == [3e-3]


def test_the_rate_of_an_optimizer_that_is_brought_stays(plan, tmp_path, caplog):
    brought = {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {"lr": 1e-5})}

    def trainer(callback, **options):
        args = arguments(tmp_path, max_steps=1, save_strategy="no")
        return trainer_of(tmp_path, args, [callback], **options)

    trainer(GuidedCallback(plan), **brought).train()
    told = [r.getMessage() for r in caplog.records if "learning rate" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("learning rate: 1e-05 is far below the plan's")
    model = torch.nn.Linear(1, 1)
    for own in (brought, {"optimizers": (torch.optim.AdamW(model.parameters()), None)}):
        with pytest.raises(GuidedError, match=r"learning_rate: 0\.003 cannot be set"):
            trainer(GuidedCallback(plan, learning_rate=3e-3), **own)


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_ends_in_the_same_bits(mode, tmp_path):
    plan = ready(make("llama"), mode)
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        torch.manual_seed(0)
        sft(base(tmp_path), folder, [GuidedCallback(plan)], learning_rate=default(SFTConfig)).train()
    (kept,) = (path for path in folders[1].glob("checkpoint-*") if path.name != f"checkpoint-{STEPS}")
    torch.manual_seed(0)
    again = sft(base(tmp_path), folders[1], [GuidedCallback(plan)], learning_rate=default(SFTConfig))
    again.train(resume_from_checkpoint=str(kept))
    assert rates(again)[-1] < plan.learning_rate
    last = [digests(folder / f"checkpoint-{STEPS}") for folder in folders]
    assert last[0] == last[1]


@pytest.mark.parametrize("wrong", [0, -1.0, True, "fast", float("nan")])
def test_a_rate_that_is_none_is_refused(wrong, plan):
    with pytest.raises(GuidedError, match=r"learning_rate: .* is neither a number above 0"):
        GuidedCallback(plan, learning_rate=wrong)
