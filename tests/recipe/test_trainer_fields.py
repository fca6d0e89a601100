"""A recipe's train section takes the fields of TRL's arguments: by name and type, without importing TRL."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from guided_ft.errors import GuidedError
from guided_ft.recipe.recipe import Recipe
from guided_ft.recipe.trl_fields import fields


def test_the_fields_are_trls_own():
    from trl import DPOConfig, GRPOConfig, SFTConfig

    for name, config in (("sft", SFTConfig), ("dpo", DPOConfig), ("grpo", GRPOConfig)):
        theirs = {field.name for field in dataclasses.fields(config) if field.init}
        assert theirs - set(fields(name)) == set()
        assert len(set(fields(name)) - theirs) < 5


def test_fields_are_passed_on_and_saved(tmp_path):
    typed = ["train.report_to=wandb", "train.neftune_noise_alpha=5", "train.loss_type=nll", "epochs=2"]
    recipe = Recipe.load("quickstart", typed)
    assert recipe.train.arguments == {"report_to": "wandb", "neftune_noise_alpha": 5, "loss_type": "nll"}
    recipe.save(tmp_path / "saved.yaml")
    again = Recipe.load(tmp_path / "saved.yaml")
    assert again == recipe
    assert Recipe.load(tmp_path / "saved.yaml", ["steps=7"]).train.epochs is None
    assert Recipe.from_dict({"data": {"name": "gcd"}, "train": {"packing": True}}).train.arguments == {"packing": True}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train.trust_remote_code=true", "train.trust_remote_code: a recipe cannot ask for that (give --trust-remote"),
        ("lr=1e-4", "lr: unknown key (did you mean 'train.learning_rate'?)"),
        ("report_to=wandb", "report_to: unknown key (did you mean 'train.report_to'?)"),
        ("train=48", "train: expected keys below it, got 48 (did you mean 'data.train'?)"),
        ("file=a.jsonl", "file: unknown key (did you mean 'data.path'?)"),
        ("num_train_epochs=3", "num_train_epochs: unknown key (did you mean 'train.epochs'?)"),
        ("output_dir=x", "output_dir: unknown key (did you mean 'output' at the top level?)"),
        ("train.packng=true", "train.packng: unknown key (did you mean 'packing'?)"),
        ("train.packing=1", "train.packing: expected bool, got 1"),
        ("train.max_steps=3", "train.max_steps: unknown key (did you mean 'train.steps'?)"),
        ("train.save_strategy=no", "train.save_strategy: a run decides that itself (remove it,"),
        ("train.assistant_only_loss=true", "train.assistant_only_loss: a recipe learns whole messages or the last"),
        ("epochs=0", "train.epochs: expected a number of passes above 0, got 0 (write a number such as 3)"),
        ("metric=exakt_match", "evaluate.metric: unknown value 'exakt_match' (did you mean 'exact_match'?)"),
        ("format=alpca", "data.format: unknown value 'alpca' (did you mean 'alpaca'?)"),
        ("columns={question: prompt}", "data.columns: no row has a column 'question' for the trainers (write {prompt:"),
        ("columns=[prompt]", "data.columns: expected a mapping, got a list"),
    ],
)
def test_other_names_and_wrong_values_are_one_line(typed, message):
    with pytest.raises(GuidedError) as caught:
        Recipe.load("quickstart", [typed])
    assert str(caught.value).startswith(f"override: {message}")
    assert "\n" not in str(caught.value)


def test_checking_a_recipe_imports_neither_torch_nor_trl():
    script = (
        "import sys\nfrom guided_ft.recipe.recipe import Recipe\nfrom guided_ft.pipeline.preflight import preflight\n"
        "preflight(Recipe.load('sums', ['train.report_to=none', 'localize.options={verify: 3}']))\n"
        "sys.exit(', '.join({'torch', 'trl', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") or done.stderr == "\n"
