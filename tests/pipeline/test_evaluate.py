"""What is measured before and after: prompts as in training, padding and modes that change nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import pytest
import tiny
import tiny_run
import torch
from datasets import Dataset
from families import make
from peft import LoraConfig
from scoring import preferences, sums
from tokenizers.processors import TemplateProcessing
from trl import DPOConfig, DPOTrainer

from guided_ft import run
from guided_ft.pipeline import evaluate
from guided_ft.pipeline.evaluate import losses, margins, preference_accuracy, retention, reward_accuracy
from guided_ft.pipeline.measure import METRICS, Held
from guided_ft.task.answers import answers, exact_match
from guided_ft.task.task import Task


def test_chat_prompts_begin_as_they_do_in_training():
    tokenizer, model, seen = tiny.tokenizer(), make("llama"), []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for t in tools or [] %}{{ t['name'] }}{% endfor %}{{ mood or '' }}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    handle = model.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    chat = {"prompt": [{"role": "user", "content": "1+3 ="}], "completion": [{"role": "assistant", "content": " 4"}]}
    more = {"tools": [{"name": "add"}], "chat_template_kwargs": {"mood": "glad"}}
    for row, prompt in (
        ({"prompt": "1+3 =", "completion": " 4"}, "1+3 ="),
        (chat, chat["prompt"]),
        (chat | more, chat | more),
    ):
        seen.clear()
        answers(model, tokenizer, [prompt], max_new_tokens=1, progress=False)
        (example,) = Task.from_dataset([row], tokenizer).examples
        asked = seen[0][0].tolist()
        assert ("addglad1+3" in tokenizer.decode(asked).replace(" ", "")) == ("tools" in row)
        assert asked.count(1) == 1
        assert tuple(asked) == example[0].ids[: len(asked)]
    handle.remove()


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_padding_does_not_change_what_is_measured(family):
    model, base = make(family), make(family, seed=1)
    reference = lambda: contextlib.nullcontext(base)  # noqa: E731
    right, left = (retention(model, sums(6, padding=side), reference) for side in ("right", "left"))
    assert left == pytest.approx(right, rel=1e-4)
    assert right["kl"] > 0.01


@pytest.mark.parametrize("what", ["retention", "preferences"])
def test_no_more_logits_at_a_time_than_fit(what, monkeypatch):
    """Fifty long texts of a vocabulary of 150,000 would be 20 GB of logits, whatever size the model has."""
    model, base, sizes = make("llama"), make("llama", seed=1), []
    for each in (model, base):
        each.register_forward_hook(lambda module, args, out: sizes.append(out.logits.numel()))

    def measured():
        sizes.clear()
        if what == "preferences":
            return losses(model, preferences(12, batch_size=12)).tolist()
        return list(retention(model, sums(12, batch_size=12), lambda: contextlib.nullcontext(base)).values())

    whole = measured()
    limit = max(sizes) // 3
    monkeypatch.setattr(evaluate, "LOGITS", limit)
    assert measured() == pytest.approx(whole, rel=1e-5)
    assert max(sizes) <= limit
    monkeypatch.setattr(evaluate, "LOGITS", 1)
    assert measured() == pytest.approx(whole, rel=1e-5)
    assert len(sizes) == 12 * (2 if what == "retention" else 1)


def test_preferences_are_those_of_the_model_alone():
    model, task = make("llama"), preferences(6)
    with torch.no_grad():
        alone = torch.cat([task.quantity(model, batch) for batch in task.batches()])
    against = dataclasses.replace(task, reference=tuple((alone + 1).tolist()))
    assert margins(model, against).tolist() == margins(model, task).tolist() == alone.tolist()
    assert preference_accuracy(alone) == pytest.approx(100 * sum(margin > 0 for margin in alone.tolist()) / 6) != 0


def test_rewards_are_those_of_trl(tmp_path):
    """TRL's own evaluation is the oracle."""
    task = preferences(20)
    trainer = DPOTrainer(
        make("llama"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
        args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], per_device_eval_batch_size=20),
        train_dataset=Dataset.from_list(tiny.pairs(20)),
        eval_dataset=Dataset.from_list(tiny.pairs(20)),
        processing_class=tiny.tokenizer(),
    )
    alone = trainer.accelerator.unwrap_model(trainer.model)
    torch.manual_seed(0)
    for name, parameter in alone.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter)
    theirs = 100 * trainer.evaluate()["eval_rewards/accuracies"]

    with alone.disable_adapter():
        base = margins(alone, task)
    assert 0 < theirs < 100
    assert reward_accuracy(margins(alone, task), base) == pytest.approx(theirs)
    assert reward_accuracy(base) == reward_accuracy(base, base) == 50


def test_pairs_are_asked_once_for_all_metrics():
    model, base, task, asked = make("llama"), make("llama", seed=1), preferences(6, batch_size=6), []
    for each in (model, base):
        each.register_forward_hook(lambda module, args, out: asked.append(module))
    recipe = SimpleNamespace(evaluate=SimpleNamespace(batch_size=6))
    run = SimpleNamespace(recipe=recipe, task=lambda rows, batch_size: task)
    held = Held(run, [], model, lambda: contextlib.nullcontext(base))
    found = {name: METRICS[name][1](held) for name in ("reward_accuracy", "preference_accuracy")}
    assert sorted(map(id, asked)) == sorted(map(id, [model, base]))
    assert found["preference_accuracy"] == preference_accuracy(margins(model, task))
    assert found["reward_accuracy"] == reward_accuracy(margins(model, task), margins(base, task))


@pytest.mark.parametrize("what", ["answers", "preferences", "retention"])
def test_dropout_takes_no_part_and_modes_are_put_back(what):
    model, base = make("gpt2"), make("gpt2", seed=1)
    for module in (*model.modules(), *base.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    def measured():
        if what == "answers":
            return answers(model, tiny.tokenizer(), [row["prompt"] for row in tiny.sums(4)], progress=False)
        if what == "preferences":
            return margins(model, preferences(32)).tolist()
        return retention(model, sums(4), lambda: contextlib.nullcontext(base))

    expected = measured()
    model.train()
    base.train()
    model.transformer.h[0].eval()
    before = [module.training for m in (model, base) for module in m.modules()]
    assert measured() == expected
    assert [module.training for m in (model, base) for module in m.modules()] == before


@pytest.mark.parametrize("ending", ["<eos>", "<eos><eos>", " <eos>\n"])
def test_a_right_answer_may_end_in_the_text_of_a_special_token(ending, monkeypatch, tmp_path):
    special = tiny.tokenizer().all_special_tokens
    assert exact_match(["4", "8"], [f" 4{ending}", f" 9{ending}"], special) == 50
    asked = tiny_run.recipe(tmp_path, control="none")
    rows = [row | {"completion": row["completion"] + ending} for row in tiny.sums(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    right = {row["prompt"]: row["completion"].strip() for row in tiny.sums(40)}
    monkeypatch.setattr(
        "guided_ft.task.answers.answers",
        lambda model, tokenizer, prompts, **kw: [right[p["prompt"]] for p in prompts],
    )
    assert run(asked, until="before", quiet=True)["before"]["scores"]["exact_match"] == 100


def test_a_short_prompt_is_answered_beside_a_long_one_as_alone():
    model, tokenizer = make("llama"), tiny.tokenizer()
    prompts = ["1+3 =", "what is twelve and thirty-six, said in one number? ="]
    alone = [answers(model, tokenizer, [prompt], progress=False)[0] for prompt in prompts]
    assert answers(model, tokenizer, prompts, progress=False) == alone
    assert alone[0] != alone[1]


def test_drift_is_the_divergence_from_the_base_to_the_model():
    """KL(base || model) in nats a token, written out."""
    model, base, task = make("llama"), make("llama", seed=1), sums(3)
    total = tokens = 0.0
    for batch in task.batches():
        asked = batch["labels"][:, 1:] != -100
        with torch.no_grad():
            p, q = (
                m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                .logits[:, :-1]
                .double()
                .softmax(-1)
                for m in (base, model)
            )
        total += float(((p * (p / q).log()).sum(-1) * asked).sum())
        tokens += int(asked.sum())
    found = retention(model, task, lambda: contextlib.nullcontext(base))
    assert found["kl"] == pytest.approx(total / tokens, rel=1e-4)


def test_forgetting_is_not_measured_on_the_text_that_was_localized_with(tmp_path, monkeypatch):
    from guided_ft.scorers import localize, self_text

    seeds, sample = [], self_text.self_text

    def noted(model, *, seed=0, **options):
        seeds.append(seed)
        return sample(model, seed=seed, **options)

    monkeypatch.setattr(self_text, "self_text", noted)
    monkeypatch.setattr(localize, "self_text", noted)
    run(tiny_run.recipe(tmp_path, seed=3), until="localize", quiet=True)
    run(tiny_run.recipe(tmp_path, seed=3), until="evaluate", quiet=True)
    assert 3 in seeds, "the map is two-sided"
    assert len(set(seeds)) == 2, "the same text"
