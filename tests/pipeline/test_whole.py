"""Full fine-tuning beside the plans: it is what the plain trainer does, and it stops where a plan stops."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tiny_run import recipe
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from guided_ft import Anatomy, GuidedError
from guided_ft.models import load_model
from guided_ft.pipeline import stages
from guided_ft.pipeline.training import _common, train
from guided_ft.pipeline.whole import Whole
from guided_ft.plan.modes import WIDTH


@pytest.fixture
def run(tmp_path):
    return stages.Run(recipe(tmp_path, train={"steps": 4}))


def test_it_is_what_the_plain_trainer_does(run, tmp_path):
    whole = Whole(Anatomy.of(run.model()))
    assert whole.num_parameters == sum(p.numel() for p in run.model().parameters())
    fitted = train(run.recipe, whole, run.rows[0], stages.probe(run), run.model(), run.tokenizer, tmp_path, None)
    set_seed(run.recipe.seed)
    plain = SFTTrainer(
        run.model(),
        args=SFTConfig(**_common(run.recipe, whole, tmp_path / "plain", len(run.rows[0]))),
        train_dataset=Dataset.from_list(run.rows[0]),
        processing_class=run.tokenizer,
    )
    plain.train()
    saved, start = dict(load_model(str(tmp_path / "adapter")).named_parameters()), dict(run.model().named_parameters())
    assert saved.keys() == start.keys()
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(saved[name], parameter, atol=1e-5, rtol=1e-4)
        assert not torch.equal(saved[name], start[name]), name
    losses = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert [loss for _, loss in fitted["loss"]] == pytest.approx(losses, abs=1e-4)
    assert fitted["frozen"] == {"identical": 0, "total": 0}
    assert not list((tmp_path / "train").glob("checkpoint-*"))


def test_it_stops_before_a_gradient_that_is_not_finite(run, tmp_path):
    whole, model = Whole(Anatomy.of(run.model())), run.model()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(GuidedError, match=r"step 1: the gradient of .* is not finite"):
        train(run.recipe, whole, run.rows[0], stages.probe(run), model, run.tokenizer, tmp_path, None)


def test_its_rate_is_made_for_whole_models(run):
    anatomy = Anatomy.of(run.model())
    assert Whole(anatomy).learning_rate == pytest.approx(3.3e-5 * WIDTH / anatomy.hidden_size)
