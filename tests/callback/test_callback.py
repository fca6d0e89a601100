"""GuidedCallback: the drop-in, in every trainer and mode: applied, guarded, resumed, certified."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from datasets import Dataset
from families import logits, make
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, Plan, Selection, Task
from guided_ft.anatomy import Anatomy
from guided_ft.callback.certify import Certificate
from guided_ft.errors import GuidedError
from guided_ft.plan.plan import trainable_names
from guided_ft.system import processes

MODES = ("slice", "freeze", "lora")
STEPS, SAVE = 6, 3


def settings(folder: Path, **options) -> dict:
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "save_steps": SAVE,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        **options,
    }


def base(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32):
    """A model that was loaded from a folder, as users' models are (DPO reloads its reference from there)."""
    path = folder / f"base-{family}-{dtype}".replace("torch.", "")
    if not path.exists():
        make(family, dtype).save_pretrained(path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")


def sft(model, folder: Path, callbacks, peft_config=None, **options):
    return SFTTrainer(
        model,
        args=SFTConfig(**{"gradient_checkpointing": False, **settings(folder, **options)}, bf16=False, max_length=32),
        train_dataset=Dataset.from_list(tiny.sums(24)),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def dpo(model, folder: Path, callbacks, peft_config=None, **options):
    return DPOTrainer(
        model,
        args=DPOConfig(**{"gradient_checkpointing": False, **settings(folder, **options)}, bf16=False, max_length=32),
        train_dataset=Dataset.from_list(tiny.pairs(24)),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def plain(model, folder: Path, callbacks, peft_config=None, **options):
    task = Task.from_dataset(tiny.sums(24), tiny.tokenizer())
    rows = [{"input_ids": e[0].ids, "labels": e[0].labels} for e in task.examples]
    length = max(len(r["input_ids"]) for r in rows)
    rows = [
        {
            "input_ids": list(r["input_ids"]) + [0] * (length - len(r["input_ids"])),
            "labels": list(r["labels"]) + [-100] * (length - len(r["labels"])),
            "attention_mask": [1] * len(r["input_ids"]) + [0] * (length - len(r["input_ids"])),
        }
        for r in rows
    ]
    return Trainer(
        model, args=TrainingArguments(**settings(folder, **options)), train_dataset=rows, callbacks=callbacks
    )


TRAINERS = {"trainer": plain, "sft": sft, "dpo": dpo}


def from_task(mode: str, trainer: str = "sft", **options) -> GuidedCallback:
    rows = tiny.pairs(8) if trainer == "dpo" else tiny.sums(8)
    task = Task.from_dataset(rows, tiny.tokenizer())
    return GuidedCallback(task=task, budget="45%" if mode == "freeze" else "20%", mode=mode, **options)


def ready(model, mode: str) -> Plan:
    return Plan(Selection.parse("L0.H1 L1.H2 L1.H3 L0.N3 L1.N40", Anatomy.of(model)), mode)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


# -- the drop-in works in every trainer and mode ------------------------------------------------------------------------
def test_an_adapter_of_the_same_shape_on_other_rows_is_refused(tmp_path):
    model = base(tmp_path)
    other = Plan(Selection.parse("L0.H0 L1.H0 L1.H1 L0.N5 L1.N41", Anatomy.of(model)))
    plan = ready(model, "slice")
    assert other.expected_trainable == plan.expected_trainable
    with pytest.raises(GuidedError, match="carries another adapter"):
        sft(other.attach(model), tmp_path / "run", [GuidedCallback(plan)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TRAINERS)
def test_one_added_argument(tmp_path, name, mode):
    model = base(tmp_path)
    start = logits(model)
    callback = from_task(mode, name)
    trainer = TRAINERS[name](model, tmp_path / "run", [callback])
    assert trainable_names(trainer.model) == callback.plan.expected_trainable
    trainer.train()
    assert callback.certificate.ok
    assert callback.certificate.total > 5
    assert not torch.equal(logits(trainer.model.eval()), start)
    trainer.save_model(str(tmp_path / "final"))
    loader = AutoModelForCausalLM if mode == "freeze" else AutoPeftModelForCausalLM
    again = loader.from_pretrained(tmp_path / "final", attn_implementation="eager").eval()
    assert torch.equal(logits(again), logits(trainer.model))
    if mode != "freeze":
        with trainer.model.disable_adapter():
            assert torch.equal(logits(trainer.model), start)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_trains_by_sft(tmp_path, family, mode, dtype):
    callback = GuidedCallback(ready(make(family), mode))
    model = base(tmp_path, family, dtype)
    start = logits(model)
    trainer = sft(model, tmp_path / "run", [callback], max_steps=2, save_strategy="no")
    trainer.train()
    assert callback.certificate.ok
    assert not torch.equal(logits(trainer.model.eval()), start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_trains_by_dpo(tmp_path, family, dtype):
    model = base(tmp_path, family, dtype)
    plan = ready(model, "slice")
    callback = GuidedCallback(plan)
    trainer = dpo(model, tmp_path / "run", [callback], plan.peft_config(), max_steps=2, save_strategy="no")
    assert trainer.ref_model is None
    trainer.train()
    assert callback.certificate.ok
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-4 if dtype == torch.float32 else 1e-2)
    assert all(p.dtype == torch.float32 for n, p in trainer.model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("mode", ["slice", "lora"])
def test_dpo_from_the_callback_alone_needs_no_second_model(tmp_path, mode):
    trainer = dpo(base(tmp_path), tmp_path / "run", [from_task(mode, "dpo")])
    assert trainer.ref_model is None
    trainer.train()
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-4)


def test_both_ways_in_are_the_same_run(tmp_path):
    plan = ready(make("llama"), "slice")
    alone = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(plan)])
    config = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(plan)], plan.peft_config())
    for trainer in (alone, config):
        trainer.train()
    assert digests(tmp_path / "a" / f"checkpoint-{STEPS}") == digests(tmp_path / "b" / f"checkpoint-{STEPS}")


@pytest.mark.parametrize("name", TRAINERS)
def test_gradient_checkpointing_changes_nothing(tmp_path, name):
    plan = ready(make("llama"), "slice")
    losses = []
    for on in (False, True):
        trainer = TRAINERS[name](base(tmp_path), tmp_path / str(on), [GuidedCallback(plan)], gradient_checkpointing=on)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_lr_scale_scales_the_whole_schedule(tmp_path):
    plan = ready(make("llama"), "slice")
    double = Plan(plan.selection, "slice", lr_scale=2.0)
    one = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(double)], learning_rate=1e-3)
    two = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(plan)], learning_rate=2e-3)
    one.train()
    two.train()
    shutil.rmtree(tmp_path / "a" / f"checkpoint-{STEPS}")
    again = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(double)], learning_rate=1e-3)
    again.train(resume_from_checkpoint=True)
    expected = digests(tmp_path / "b" / f"checkpoint-{STEPS}")
    assert digests(tmp_path / "a" / f"checkpoint-{STEPS}") == expected


# -- law 8: resume ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["callback", "peft_config"])
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_resume_ends_in_the_same_bits(tmp_path, name, way, mode):
    plan = ready(make("llama"), mode)

    def build(folder):
        model = base(tmp_path)
        # TRL before 1.16 makes an adapter before it seeds.
        torch.manual_seed(0)
        if way == "callback":
            return TRAINERS[name](model, folder, [from_task(mode, name)])
        return TRAINERS[name](model, folder, [GuidedCallback(plan)], plan.peft_config())

    build(tmp_path / "whole").train()
    build(tmp_path / "cut").train()
    shutil.rmtree(tmp_path / "cut" / f"checkpoint-{STEPS}")
    build(tmp_path / "cut").train(resume_from_checkpoint=True)
    assert digests(tmp_path / "cut" / f"checkpoint-{STEPS}") == digests(tmp_path / "whole" / f"checkpoint-{STEPS}")


def test_a_resumed_script_does_not_localize_again(tmp_path, monkeypatch):
    first = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [first]).train()
    monkeypatch.setattr("guided_ft.callback.callback.localize", lambda *a, **k: pytest.fail("localized again"))
    second = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [second])
    assert second.plan == first.plan
    third = from_task("slice", seed=1)
    with pytest.raises(pytest.fail.Exception):
        sft(base(tmp_path), tmp_path / "run", [third])


@pytest.mark.parametrize("kept", [False, True])
def test_every_rank_trains_what_the_first_one_chose_or_has_kept(tmp_path, monkeypatch, kept):
    firsts = ready(make("llama"), "slice")
    monkeypatch.setattr(processes, "same", lambda mine: firsts.to_dict() if mine or kept else None)
    if kept:
        monkeypatch.setattr("guided_ft.callback.callback.localize", lambda *a, **k: pytest.fail("localized again"))
    callback, model = from_task("slice", retain=None), base(tmp_path)
    callback.on_init_end(TrainingArguments(**settings(tmp_path / "run")), None, None, model=model)
    assert callback.plan == firsts
    assert trainable_names(model) == firsts.expected_trainable


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt missing"),
        (lambda c: (c / "guided.json").unlink(), "guided.json missing"),
        (lambda c: (c / "scheduler.pt").write_bytes(b""), "scheduler.pt damaged"),
        (lambda c: (c / "guided.json").write_text("{"), "guided.json damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_good_one_named(tmp_path, damage, said):
    plan = ready(make("llama"), "slice")
    sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan)], save_total_limit=3).train()
    damage(tmp_path / "run" / f"checkpoint-{STEPS}")
    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan)])
    with pytest.raises((GuidedError, Exception)) as error:
        trainer.train(resume_from_checkpoint=True)
    if said.startswith("scheduler"):
        return  # torch itself cannot read it: loud enough
    assert (
        str(error.value) == f"checkpoint-{STEPS} cannot be resumed ({said}{_cut(said)}): resume from checkpoint-{SAVE}"
    )


def _cut(said: str) -> str:
    return ": the save was cut off" if said == "guided.json missing" else ""


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    model = make("llama")
    sft(base(tmp_path), tmp_path / "run", [GuidedCallback(ready(model, "slice"))]).train()
    other = Plan(Selection.parse("L0.H0 L1.H0 L1.H1 L0.N5 L1.N41", Anatomy.of(model)))
    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(other)])
    with pytest.raises(Exception, match=r"another plan|size mismatch"):
        trainer.train(resume_from_checkpoint=True)


# -- guards -----------------------------------------------------------------------------------------------------------
class Meddler(TrainerCallback):
    """Does what users' scripts do by accident."""

    def __init__(self, event: str, act) -> None:
        setattr(self, event, lambda args, state, control, **kwargs: act(kwargs["model"]))


def test_a_parameter_beside_the_plan_stops_the_run(tmp_path):
    plan = ready(make("llama"), "slice")

    def act(model):
        next(p for n, p in model.named_parameters() if n.endswith("norm.weight")).requires_grad_(True)

    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan), Meddler("on_init_end", act)])
    with pytest.raises(GuidedError, match=r"norm\.weight is trainable but not in the plan"):
        trainer.train()


def test_an_optimizer_with_other_parameters_stops_the_run(tmp_path):
    plan = ready(make("llama"), "slice")
    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan)])
    held = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.optimizer = torch.optim.AdamW(held[1:], lr=1e-3)
    with pytest.raises(GuidedError, match="optimizer: it does not hold exactly the plan's parameters"):
        trainer.train()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_stops_the_run_by_name(tmp_path, accumulate):
    plan = ready(make("llama"), "slice")
    culprit = "base_model.model.model.layers.1.mlp.up_proj.slice_delta.default.weight"
    spoil = {"on": False}

    def act(model):
        parameter = dict(model.named_parameters())[culprit]
        parameter.register_hook(lambda g: g * float("nan") if spoil["on"] else g)

    callback = GuidedCallback(plan)
    trainer = sft(
        base(tmp_path),
        tmp_path / "run",
        [callback, Meddler("on_train_begin", act), Spoil(spoil)],
        gradient_accumulation_steps=accumulate,
    )
    with pytest.raises(GuidedError, match=f"step 3: the gradient of {culprit} is not finite \\(1 parameters"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert sum(len(p._post_accumulate_grad_hooks or ()) for p in trainer.model.parameters()) == 0


class Spoil(TrainerCallback):
    def __init__(self, switch: dict) -> None:
        self.switch = switch

    def on_step_begin(self, args, state, control, **kwargs):
        self.switch["on"] = state.global_step == 2


def test_a_frozen_tensor_that_moves_is_named(tmp_path):
    plan = ready(make("llama"), "slice")

    def act(model):
        with torch.no_grad():
            model.get_base_model().model.norm.weight[3] += 1e-6

    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan), Meddler("on_epoch_end", act)])
    with pytest.raises(GuidedError, match=r"certificate: model\.norm\.weight moved although it is frozen \(1 tensors"):
        trainer.train()
    record = json.loads((tmp_path / "run" / "guided" / "certificate.json").read_text())
    assert record["moved"] == ["model.norm.weight"]


def test_added_too_late_is_said(tmp_path):
    trainer = sft(base(tmp_path), tmp_path / "run", [])
    trainer.add_callback(GuidedCallback(ready(make("llama"), "slice")))
    with pytest.raises(GuidedError, match="added too late"):
        trainer.train()


def test_neither_plan_nor_task_is_said():
    with pytest.raises(GuidedError, match="either a plan or a task"):
        GuidedCallback()


def test_no_tensor_to_compare_is_no_certificate():
    assert not Certificate.compare({}, {}).ok
    assert not Certificate.compare({"a": "1"}, {}).ok
    assert Certificate.compare({"a": "1"}, {"a": "1", "b": "2"}).ok


def test_a_model_with_another_adapter_is_refused(tmp_path):
    model = base(tmp_path)
    other = Plan(Selection.parse("L0.H0", Anatomy.of(model)), "lora")
    with pytest.raises(GuidedError, match="carries another adapter"):
        sft(other.attach(model), tmp_path / "run", [GuidedCallback(ready(make("llama"), "slice"))])


# -- what users do besides ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_of_another_run_is_checked_where_it_lies(tmp_path, mode):
    model = make("llama")
    sft(base(tmp_path), tmp_path / "a", [GuidedCallback(ready(model, mode))]).train()
    other = Plan(Selection.parse("L0.H1 L1.H2 L1.H3 L0.N9 L1.N41", Anatomy.of(model)), mode)
    if mode != "freeze":
        assert other.expected_trainable == ready(model, mode).expected_trainable
    trainer = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(other)])
    with pytest.raises(GuidedError, match=f"checkpoint-{SAVE} cannot be resumed .it was made by another plan"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{SAVE}"))


def test_what_another_run_lacks_is_said_though_the_own_checkpoint_is_whole(tmp_path):
    plan = ready(make("llama"), "slice")
    for run in ("a", "b"):
        sft(base(tmp_path), tmp_path / run, [GuidedCallback(plan)]).train()
    (tmp_path / "a" / f"checkpoint-{SAVE}" / "optimizer.pt").unlink()
    trainer = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(plan)])
    with pytest.raises(GuidedError, match=r"optimizer\.pt missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{SAVE}"))


def test_a_plan_that_another_callback_left_is_not_taken_for_the_located_one(tmp_path):
    first = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [first])
    sft(base(tmp_path), tmp_path / "run", [GuidedCallback(ready(make("llama"), "slice"))])
    again = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [again])
    assert again.plan == first.plan


def test_one_callback_locates_afresh_in_another_model(tmp_path):
    callback = from_task("slice")
    trainer = sft(base(tmp_path), tmp_path / "a", [callback])
    first = callback.plan
    sft(trainer.model, tmp_path / "b", [callback])
    assert callback.plan is first, "the model already trains it"
    model = make("llama", seed=5)
    sft(model, tmp_path / "c", [callback])
    assert callback.plan != first
    assert callback.plan.is_attached(model)


def test_frequencies_that_a_model_computes_anew_are_no_frozen_tensors(tmp_path):
    model = make("llama")
    config = model.config
    config.rope_parameters |= {"rope_type": "dynamic", "factor": 4.0}
    config.max_position_embeddings = 4
    model = type(model)(config)
    before = model.model.rotary_emb.inv_freq.clone()
    callback = GuidedCallback(ready(model, "slice"))
    trainer = plain(model, tmp_path, [callback])
    trainer.train()
    now = trainer.model.get_decoder().rotary_emb.inv_freq
    assert not torch.equal(before, now), "nothing moved, so nothing is shown"
    assert callback.certificate.ok


@pytest.mark.parametrize("cache", ["1MB", "auto"])
def test_noise_on_the_embeddings_is_not_cached(tmp_path, cache):
    model = make("llama", layers=4)
    callback = GuidedCallback(Plan(Selection.parse("L2.N3", Anatomy.of(model))), prefix_cache=cache)
    trainer = sft(model, tmp_path, [callback], neftune_noise_alpha=5, max_steps=12)
    if cache == "auto":
        trainer.train()
        assert "neftune_noise_alpha=5 below layer 2" in callback.engine.note
    else:
        with pytest.raises(GuidedError, match="neftune_noise_alpha=5 below layer 2"):
            trainer.train()


def test_the_rate_is_scaled_once_however_often_a_trainer_trains(tmp_path):
    plan = Plan(ready(make("llama"), "slice").selection, lr_scale=3.0)
    trainer = sft(
        base(tmp_path), tmp_path / "a", [GuidedCallback(plan)], learning_rate=1e-3, lr_scheduler_type="constant"
    )
    trainer.train()
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([3e-3] * STEPS)


class OwnLoss(Trainer):
    """As users write it: cross entropy on the logits of every position."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        out = model(**inputs)
        logits, labels = out.logits[:, :-1], inputs["labels"][:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels)
        return (loss, out) if return_outputs else loss


def test_a_loss_of_ones_own_can_have_every_logit(tmp_path):
    rows = plain(base(tmp_path), tmp_path / "x", []).train_dataset
    losses = {}
    for name, callback in {"full": True, "trimmed": False}.items():
        plan = ready(make("llama"), "slice")
        kind = OwnLoss if callback else Trainer
        args = TrainingArguments(**settings(tmp_path / name))
        trainer = kind(
            base(tmp_path), args=args, train_dataset=rows, callbacks=[GuidedCallback(plan, full_logits=callback)]
        )
        trainer.train()
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses["full"] == pytest.approx(losses["trimmed"], rel=1e-4)


def test_a_model_that_the_trainer_makes_anew_is_refused_by_that_name(tmp_path):
    rows = plain(base(tmp_path), tmp_path / "x", []).train_dataset
    args = TrainingArguments(**settings(tmp_path / "run"))
    callback = GuidedCallback(ready(make("llama"), "slice"))
    trainer = Trainer(model_init=lambda: base(tmp_path), args=args, train_dataset=rows, callbacks=[callback])
    with pytest.raises(GuidedError, match="model_init makes one anew"):
        trainer.train()
