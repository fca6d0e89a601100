"""A way of training is one class: this file adds a fourth one, and everything that depends on the mode works with it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import families
import pytest
import tiny
import tiny_run
import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig, get_peft_model
from trl import SFTConfig, SFTTrainer

import guided_ft
from guided_ft import GuidedCallback, Plan, Selection, Task
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.estimate.estimate import estimate
from guided_ft.pipeline.pipeline import run
from guided_ft.plan.attaching import trainable_names
from guided_ft.plan.modes import MODES, Mode, Work, register
from guided_ft.plan.modes.work import places
from guided_ft.recipe.recipe import Recipe


@dataclass(frozen=True)
class Scale(Mode[Selection]):
    """A factor for each output, or for each input, of the modules that hold the components: PEFT's IA3."""

    name: ClassVar[str] = "scale"
    title: ClassVar[str] = "scales"
    help: ClassVar[str] = "factors of the modules that hold them"
    inputs: bool = False

    def config(self, selection: Selection) -> IA3Config:
        modules = sorted({part.module for part in selection.slices()})
        return IA3Config(
            task_type="CAUSAL_LM", target_modules=modules, feedforward_modules=modules if self.inputs else []
        )

    def sizes(self, selection: Selection) -> dict[str, int]:
        a = selection.anatomy
        sides = {module: a.outputs_inputs(a.relative(module))[self.inputs] for module in self._modules(selection)}
        return {f"base_model.model.{module}.ia3_l.default": size for module, size in sides.items()}

    def work(self, selection: Selection) -> Work:
        place = places(selection.anatomy, (c.layer for c in selection))
        sizes = dict(zip(self._modules(selection), self.sizes(selection).values(), strict=True))
        return Work(added={place[module]: (size,) for module, size in sizes.items()})

    def rate(self, share: float) -> float:
        return 0.03

    @staticmethod
    def _modules(selection: Selection) -> list[str]:
        return sorted({part.module for part in selection.slices()})


@pytest.fixture(autouse=True)
def _fourth_mode() -> Iterator[None]:
    register(Scale)
    yield
    del MODES["scale"]


def plan(model: torch.nn.Module, **options: object) -> Plan:
    return Plan(Selection.parse("L1.H2 L1.N40", Anatomy.of(model)), "scale", options=options)


@pytest.mark.parametrize("inputs", [False, True])
def test_a_plan_of_it_trains_exactly_its_own(inputs: bool, tmp_path: Path) -> None:
    model = families.make("llama")
    before = families.logits(model)
    made = plan(model, inputs=inputs)
    attached = made.attach(model)
    assert trainable_names(attached) == made.expected_trainable
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == made.num_parameters
    assert torch.equal(families.logits(attached), before)
    assert made.first_layer == 1
    assert made.learning_rate == pytest.approx(0.03 * 576 / families.HIDDEN)
    made.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert (again, again.hash, again.options) == (made, made.hash, {"inputs": inputs})
    other = plan(model, inputs=not inputs)
    assert other.hash != made.hash
    assert (made.is_attached(attached), other.is_attached(attached)) == (True, False)


def test_a_callback_makes_applies_and_certifies_it(tmp_path: Path) -> None:
    rows = tiny.sums(8)
    task = Task.from_dataset(rows, tiny.tokenizer())
    callback = GuidedCallback(
        task=task, method="magnitude", retain=None, budget="20%", mode="scale", mode_options={"inputs": True}
    )
    args = SFTConfig(str(tmp_path), max_steps=2, use_cpu=True, bf16=False, report_to=[], max_length=32, save_steps=2)
    trainer = SFTTrainer(
        families.make("llama"),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    assert callback.plan is not None
    assert (callback.plan.mode, callback.plan.options) == ("scale", {"inputs": True})
    assert callback.certificate is not None
    assert callback.certificate.ok
    assert trainer.optimizer.defaults["lr"] == callback.plan.learning_rate
    moved = [p for p in trainer.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in moved) == callback.plan.num_parameters
    assert not all(torch.equal(p, torch.ones_like(p)) for p in moved)


def test_a_recipe_runs_it(tmp_path: Path) -> None:
    recipe = tiny_run.recipe(tmp_path, train={"mode": "scale", "mode_options": {"inputs": True}, "steps": 2})
    done = run(recipe, until="train", quiet=True)
    assert done["train"]["trainable"] == done["select"]["trainable"] > 0
    assert done["train"]["frozen"]["identical"] == done["train"]["frozen"]["total"] > 0


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"mode_options": {"input": True}}, "train.mode_options.input: mode scale has no such option (did you mean"),
        ({"rank": 3}, "train.rank: mode scale has none (remove it, or write mode: slice or mode: lora)"),
        (
            {"mode": "slice", "mode_options": {"x": 1}},
            "train.mode_options.x: mode slice has no such option (it has none",
        ),
        ({"mode": "scael"}, "train.mode: unknown value 'scael' (did you mean 'scale'?)"),
    ],
)
def test_a_recipe_refuses_what_it_does_not_take(train: dict, message: str) -> None:
    with pytest.raises(GuidedError) as error:
        Recipe(data={"name": "chain_sum"}, train={"mode": "scale", **train})
    assert message in str(error.value)


def test_estimate_has_a_row_for_it(tmp_path: Path) -> None:
    families.make("llama", layers=4).config.save_pretrained(tmp_path)
    row = {row.key: row for row in estimate(str(tmp_path), "20%", rows=2, length=12).rows}["scale"]
    assert row.memory is not None
    # Outputs of gate, up and down in each layer.
    assert row.memory.trained == 4 * (48 + 48 + 32)
    assert row.step is not None
    assert 0.5 < row.step < 1


def test_a_name_is_taken_once() -> None:
    with pytest.raises(GuidedError, match="the mode 'scale' is taken"):
        register(Scale)


# -- what a model carries is compared whole ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change", [{"lora_alpha": 3}, {"lora_dropout": 0.5}, {"use_rslora": True}, {"r": 3}, {"init_lora_weights": "pissa"}]
)
def test_a_lora_of_the_same_modules_but_other_settings_is_another(change: dict) -> None:
    model = families.make("llama")
    made = Plan(Selection.parse("L1.H2 L1.N40", Anatomy.of(model)), "lora", rank=2)
    config = made.peft_config()
    assert isinstance(config, LoraConfig)
    assert made.is_attached(get_peft_model(families.make("llama"), config))
    changed = get_peft_model(families.make("llama"), dataclasses.replace(made.peft_config(), **change))
    assert trainable_names(changed) == made.expected_trainable
    assert not made.is_attached(changed)


def test_a_second_active_adapter_is_seen() -> None:
    made = Plan(Selection.parse("L1.H2 L1.N40", Anatomy.of(families.make("llama"))), "lora", rank=2)
    attached = made.attach(families.make("llama"))
    attached.add_adapter("other", made.peft_config())
    attached.base_model.set_adapter(["default", "other"])
    for name, parameter in attached.named_parameters():
        parameter.requires_grad_(name in made.expected_trainable)
    assert trainable_names(attached) == made.expected_trainable
    assert not made.is_attached(attached)


# -- the law ---------------------------------------------------------------------------------------------------------------
def test_nobody_asks_for_a_mode_by_its_name() -> None:
    """No comparison with the name of a mode anywhere but in the modes: they are asked."""
    found = []
    package = Path(guided_ft.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                if words & {"slice", "freeze", "lora"}:
                    found.append(f"{path.relative_to(package)}:{node.lineno}")
    assert found == []


def test_where_the_numbers_lie_adds_up(family: str) -> None:
    anatomy = Anatomy.of(families.make(family))
    for mode in ("slice", "freeze", "lora"):
        made = Plan(Selection.parse("L1.H2 L1.N40 L0.N3 L0.N4", anatomy), mode, options={})
        work = made.way.work(made.selection)
        numbers = [*work.in_place.values(), *(sum(chain) for chain in work.added.values())]
        assert sum(numbers) == made.num_parameters
