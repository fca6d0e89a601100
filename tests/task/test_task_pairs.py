"""Task: corrupted prompts, wrong answers, metrics of one's own, and a trainer's own loss."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from datasets import Dataset
from families import make
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft.errors import GuidedError
from guided_ft.task.batching import model_inputs
from guided_ft.task.task import Task
from guided_ft.task.tokens import IGNORE, Tokens

ROWS = [
    {"prompt": f"{i}+{j} =", "completion": f" {i + j}", "corrupted_prompt": f"{j}+{i + 1} =", "wrong": f" {i + j + 1}"}
    for i, j in ((1, 2), (3, 4), (12, 2), (2, 5))
]
ROWS[2]["corrupted_prompt"] = "21+3 ="


def task_of(rows=ROWS, **options) -> Task:
    return Task.from_dataset(rows, tiny.tokenizer(), **options)


def values(model, task):
    with torch.no_grad():
        return torch.cat([task.quantity(model, batch) for batch in task.batches()])


def test_corrupted_rows_line_up_with_the_clean_ones():
    task = task_of(batch_size=3)
    batch = next(task.batches())
    assert batch["corrupted_ids"].shape == batch["input_ids"].shape
    answer = batch["labels"] != IGNORE
    assert torch.equal(batch["corrupted_ids"][answer], batch["input_ids"][answer])
    assert tiny.tokenizer().decode(batch["corrupted_ids"][2]).replace(" ", "").startswith("21+3=")
    assert "corrupted_ids" not in next(task_of(tiny.sums(2)).batches())


def test_pairs_of_preferences_have_a_corrupted_prompt_too():
    row = tiny.pairs(1)[0] | {"corrupted_prompt": "2+3 ="}
    batch = next(task_of([row]).batches())
    assert batch["corrupted_ids"].shape == batch["input_ids"].shape == (2, 8)
    assert (batch["corrupted_ids"] != batch["input_ids"]).sum() == 2


@pytest.mark.parametrize("padding", ["right", "left"])
def test_logit_difference_is_that_of_the_whole_logits(padding):
    model, task = make("llama"), dataclasses.replace(task_of(metric="logit_diff", batch_size=3), padding=padding)
    expected = []
    for row, example in zip(ROWS, task.examples, strict=True):
        logits = model(input_ids=torch.tensor([example[0].ids])).logits[0]
        wrong = task_of([{"prompt": row["prompt"], "completion": row["wrong"]}]).examples[0][0].ids
        at = next(i for i, (a, b) in enumerate(zip(example[0].ids, wrong, strict=False)) if a != b)
        expected.append(float(logits[at - 1, example[0].ids[at]] - logits[at - 1, wrong[at]]))
    found = values(model, task)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(task.loss(found), -found)


@pytest.mark.parametrize("preference", [False, True])
def test_left_and_right_padding_ask_the_same(family, preference):
    task = task_of(tiny.pairs(5) if preference else tiny.sums(5))
    model = make(family)
    right, left = (values(model, dataclasses.replace(task, padding=side)) for side in ("right", "left"))
    assert torch.allclose(right, left, atol=2e-4)
    assert right.std() > 0.01


def test_a_metric_of_ones_own_sees_the_whole_batch():
    def first_answer_token(logits, batch):
        at = (batch["labels"] != IGNORE).int().argmax(1)
        rows = torch.arange(len(at))
        return logits[rows, at - 1].log_softmax(-1)[rows, batch["input_ids"][rows, at]]

    model, task = make("llama"), task_of(metric=first_answer_token)
    single = dataclasses.replace(
        task,
        metric="loss",
        wrong=None,
        examples=tuple((Tokens(e.ids, _only_first(e.labels)),) for (e,) in task.examples),
    )
    assert torch.allclose(values(model, task), -values(model, single), atol=1e-5)
    assert task.hash != task_of().hash


def _only_first(labels):
    first = next(i for i, label in enumerate(labels) if label != IGNORE)
    return tuple(label if i == first else IGNORE for i, label in enumerate(labels))


def test_saved_pairs_come_back(tmp_path):
    for rows in (ROWS, [tiny.pairs(1)[0] | {"corrupted_prompt": "2+3 ="}]):
        task = task_of(rows)
        task.save(tmp_path / "task.jsonl")
        again = Task.load(tmp_path / "task.jsonl")
        assert (again.examples, again.corrupted, again.wrong) == (task.examples, task.corrupted, task.wrong)
        assert again.hash == task.hash


def test_the_hash_knows_the_pairs():
    plain = [{k: row[k] for k in ("prompt", "completion")} for row in ROWS]
    variants = [
        task_of(plain),
        task_of([r | {"wrong": w["wrong"]} for r, w in zip(plain, ROWS, strict=True)]),
        task_of([r | {"corrupted_prompt": w["corrupted_prompt"]} for r, w in zip(plain, ROWS, strict=True)]),
        task_of(),
        task_of(metric="logit_diff"),
    ]
    assert len({task.hash for task in variants}) == len(variants)


def test_parts_keep_what_belongs_together():
    task = task_of().part([2, 0])
    assert task.corrupted[1][0].ids == task_of().corrupted[0][0].ids
    assert task.wrong[0] == task_of().wrong[2]
    assert len(task_of().take(99)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrupted_prompt": "1+12 ="}, "example 1 has 8 tokens but its corrupted one 9"),
        ({"corrupted_prompt": None}, "row 1: it has no corrupted prompt, unlike row 0"),
        ({"wrong": None}, "row 1: it has no wrong answer, unlike row 0"),
        ({"wrong": " 7"}, "row 1: the wrong answer does not differ"),
        (
            {"completion": " 7" * 40, "wrong": " 7" * 39 + " 8"},
            "example 1 has no wrong answer token beside the right one",
        ),
        ({"completion": ""}, "row 1: the answer is empty"),
    ],
)
def test_bad_pairs_are_named(change, message):
    rows = [dict(row) for row in ROWS]
    rows[1] |= change
    with pytest.raises(GuidedError) as error:
        task_of(rows, max_length=64)
    assert message in str(error.value)


def test_metrics_that_cannot_work_are_refused():
    with pytest.raises(GuidedError, match=r"metric: .*\(logits\) cannot be called as metric\(logits, batch\)"):
        task_of(metric=lambda logits: logits)
    with pytest.raises(GuidedError, match=r"metric: unknown value 'logit_dif' .did you mean 'logit_diff'"):
        task_of(metric="logit_dif")
    with pytest.raises(GuidedError, match="example 0 has no wrong answer"):
        task_of(tiny.sums(2), metric="logit_diff")
    with pytest.raises(GuidedError, match=r"returned shape \(\) for 4 examples"):
        values(make("llama"), task_of(metric=lambda logits, batch: logits.mean()))


def test_examples_beyond_the_model_are_named():
    model = make("gpt2")
    long = Task(((Tokens((5, 6), (5, 6)),), (Tokens((5,) * 65, (5,) * 65),)))
    with pytest.raises(GuidedError, match="example 1 has 65 tokens, but the model's window is 64"):
        long.check(model)
    with pytest.raises(GuidedError, match="example 0 has token id 99, but the model knows 99"):
        Task(((Tokens((5, 99), (5, 99)),),)).check(model)
    long.take(1).check(model)


@pytest.mark.parametrize(
    "more",
    [
        {"examples": ((Tokens((5, 6), (-100, 99)),),)},
        {"examples": ((Tokens((5, 6), (5, 6)), Tokens((5, 99), (5, 6))),)},
        {"corrupted": ((Tokens((99, 6), (5, 6)),),)},
        {"wrong": ((-100, 99),)},
    ],
    ids=["label", "rejected", "corrupted", "wrong"],
)
def test_token_ids_are_checked_wherever_they_stand(more):
    task = Task(**{"examples": ((Tokens((5, 6), (5, 6)),),)} | more)
    with pytest.raises(GuidedError, match="example 0 has token id 99, but the model knows 99"):
        task.check(make("gpt2"))


def test_token_ids_below_zero_are_named():
    with pytest.raises(GuidedError, match="example 0 has token id -1, but the model knows 99"):
        Task(((Tokens((-1, 6), (5, 6)),),)).check(make("gpt2"))


@pytest.mark.parametrize(
    "wrapped",
    [{"target_modules": ["embed_tokens"]}, {"trainable_token_indices": [3, 4]}, {"modules_to_save": ["embed_tokens"]}],
    ids=lambda wrapped: next(iter(wrapped)),
)
def test_examples_are_checked_against_adapted_embeddings(wrapped):
    model = get_peft_model(make("llama"), LoraConfig(**({"target_modules": ["q_proj"]} | wrapped)))
    task_of().check(model)
    with pytest.raises(GuidedError, match="token id 99, but the model knows 99"):
        Task(((Tokens((5, 99), (5, 99)),),)).check(model)


# -- a trainer's own loss ---------------------------------------------------------------------------------------------
def settings(tmp_path, **more):
    return {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "remove_unused_columns": True,
    } | more


def theirs(trainer, count):
    """``compute_loss`` on the first examples as one batch, columns dropped as in training."""
    trainer.model.eval()
    batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset.select(range(count)))))
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(batch)))


def ours(trainer, count, batch_size=3):
    task = dataclasses.replace(Task.from_trainer(trainer, count), batch_size=batch_size)
    return float(task.loss(values(trainer.model, task)).mean())


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("completion_only", [False, True])
def test_sft_loss_is_the_trainers(tmp_path, completion_only, packing):
    more = {"packing": True, "packing_strategy": "bfd", "padding_free": True} if packing else {}
    args = SFTConfig(
        **settings(tmp_path, max_length=32, completion_only_loss=completion_only, per_device_eval_batch_size=8, **more)
    )
    model = make("llama")
    if packing:
        model.set_attn_implementation("eager")
    trainer = SFTTrainer(
        model, args=args, train_dataset=Dataset.from_list(tiny.sums(30)[::3]), processing_class=tiny.tokenizer()
    )
    count = min(4, len(trainer.train_dataset))
    task = Task.from_trainer(trainer, count)
    assert len({len(e[0].ids) for e in task.examples}) > 1
    if packing:
        # Eager attention looks across the borders of packed sequences, so the masks are compared, not the loss.
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(count)])
        assert sum(len(e[0].ids) for e in task.examples) == batch["input_ids"].numel()
        scored = sum(label != IGNORE for e in task.examples for label in e[0].labels[1:])
        assert scored == int((batch["labels"] != IGNORE).sum())
        return
    assert ours(trainer, count) == pytest.approx(theirs(trainer, count), abs=1e-5)


def test_plain_trainers_loss(tmp_path):
    tokenizer = tiny.tokenizer()
    rows = Dataset.from_list(
        [{"input_ids": tokenizer(r["prompt"] + r["completion"])["input_ids"], "extra": 1} for r in tiny.sums(30)[::5]]
    )
    trainer = Trainer(
        make("gpt2"),
        TrainingArguments(**settings(tmp_path, per_device_eval_batch_size=8)),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    assert ours(trainer, 6) == pytest.approx(theirs(trainer, 6), abs=1e-5)


def test_dpo_loss_is_the_trainers_whatever_its_reference(tmp_path):
    for reference_seed in (0, 7):
        trainer = DPOTrainer(
            make("llama"),
            ref_model=make("llama", seed=reference_seed),
            args=DPOConfig(**settings(tmp_path, beta=0.3, max_length=64, per_device_eval_batch_size=8)),
            train_dataset=Dataset.from_list(tiny.pairs(6)),
            processing_class=tiny.tokenizer(),
        )
        expected = theirs(trainer, 5)
        assert ours(trainer, 5) == pytest.approx(expected, abs=1e-5)
        assert (abs(expected - 0.6931) < 1e-3) == (reference_seed == 0)


def test_the_reference_of_a_model_with_an_adapter_is_trls(tmp_path):
    """TRL keeps a copy of an adapter that came with the model; one that the trainer adds itself is disabled."""
    born = LoraConfig(r=2, target_modules=["q_proj", "o_proj", "down_proj"])
    for model, config in ((get_peft_model(make("llama"), born), None), (make("llama"), born)):
        _roughen(model)
        trainer = DPOTrainer(
            model,
            args=DPOConfig(**settings(tmp_path, beta=0.3, max_length=64, per_device_eval_batch_size=8)),
            train_dataset=Dataset.from_list(tiny.pairs(6)),
            processing_class=tiny.tokenizer(),
            peft_config=config,
        )
        expected = theirs(trainer, 5)
        assert ours(trainer, 5) == pytest.approx(expected, abs=1e-5)
        _roughen(trainer.model, ".default.")
        assert (abs(theirs(trainer, 5) - expected)) > 1e-3
        assert ours(trainer, 5) == pytest.approx(theirs(trainer, 5), abs=1e-5)
        assert {n.split(".")[-2] for n, p in trainer.model.named_parameters() if p.requires_grad} == {"default"}
        assert trainer.model.active_adapter == "default"


def _roughen(model, part="lora_B"):
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name and part in name:
            parameter.data += torch.randn_like(parameter) * 0.3


def test_asking_the_reference_leaves_every_module_in_its_mode(tmp_path):
    reference = make("llama", seed=7)
    reference.train()
    reference.model.layers[0].eval()
    trainer = DPOTrainer(
        make("llama"),
        ref_model=reference,
        args=DPOConfig(**settings(tmp_path, max_length=64)),
        train_dataset=Dataset.from_list(tiny.pairs(2)),
        processing_class=tiny.tokenizer(),
    )
    reference.train()
    reference.model.layers[0].eval()
    before = [module.training for module in trainer.ref_model.modules()]
    assert len(set(before)) == 2
    Task.from_trainer(trainer)
    assert [module.training for module in trainer.ref_model.modules()] == before


@pytest.mark.parametrize("kind", ["sft", "dpo", "plain"])
def test_the_routers_loss_is_refused_until_it_is_turned_off(tmp_path, kind):
    def trainer(**more):
        model, tokenizer = make("mixtral"), tiny.tokenizer()
        common = {"processing_class": tokenizer}
        if kind == "plain":
            model.config.output_router_logits = not more
            collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
            rows = Dataset.from_list([{"input_ids": [5, 6, 7]}])
            args = TrainingArguments(**settings(tmp_path))
            return Trainer(model, args, train_dataset=rows, data_collator=collator, **common)
        if kind == "sft":
            args = SFTConfig(**settings(tmp_path, **more))
            return SFTTrainer(model, args=args, train_dataset=Dataset.from_list(tiny.sums(5)), **common)
        args, rows = DPOConfig(**settings(tmp_path, **more)), Dataset.from_list(tiny.pairs(5))
        return DPOTrainer(model, ref_model=make("mixtral"), args=args, train_dataset=rows, **common)

    with pytest.raises(GuidedError, match=r"the router's auxiliary loss .*set router_aux_loss_coef=0.0"):
        Task.from_trainer(trainer())
    found = trainer(router_aux_loss_coef=0.0)
    if kind == "sft":
        assert ours(found, 5) == pytest.approx(theirs(found, 5), abs=1e-5)
    assert len(Task.from_trainer(found))


def test_losses_that_a_task_cannot_compute_are_refused(tmp_path):
    class Mine(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            return model(**inputs).logits.mean()

    rows = Dataset.from_list([{"input_ids": [5, 6, 7]}])
    collator = DataCollatorForLanguageModeling(tiny.tokenizer(), mlm=False)
    args = TrainingArguments(**settings(tmp_path))
    with pytest.raises(GuidedError, match="Mine computes a loss of its own"):
        Task.from_trainer(Mine(make("llama"), args, train_dataset=rows, data_collator=collator))
    with pytest.raises(GuidedError, match="no train_dataset"):
        Task.from_trainer(Trainer(make("llama"), args, data_collator=collator))
    trainer = DPOTrainer(
        make("llama"),
        ref_model=make("llama"),
        args=DPOConfig(**settings(tmp_path, loss_type="ipo")),
        train_dataset=Dataset.from_list(tiny.pairs(2)),
        processing_class=tiny.tokenizer(),
    )
    with pytest.raises(GuidedError, match="loss_types="):
        Task.from_trainer(trainer)
    trainer = DPOTrainer(
        make("llama"),
        ref_model=make("llama"),
        args=DPOConfig(**settings(tmp_path, loss_weights=[3.0])),
        train_dataset=Dataset.from_list(tiny.pairs(2)),
        processing_class=tiny.tokenizer(),
    )
    with pytest.raises(GuidedError, match=r"loss_weights=\[3.0\] is not a loss"):
        Task.from_trainer(trainer)


def test_model_inputs_are_what_the_model_reads():
    batch = next(dataclasses.replace(task_of(), padding="left").batches())
    assert set(model_inputs(batch)) == {"input_ids", "attention_mask", "position_ids"}
