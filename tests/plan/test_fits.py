"""A plan that was made for another model, or a model that is not ready for it, is refused before it is touched."""

from __future__ import annotations

import pytest
from families import make
from peft import get_peft_model
from refusing import refuses
from trainers import MODES, ready, sft
from transformers import AutoConfig, AutoModelForCausalLM
from untouched import state_of

from guided_ft import GuidedCallback
from guided_ft.errors import GuidedError


def changed(family: str, **settings):
    config = make(family).config.to_dict() | settings
    config.pop("layer_types", None)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()


OTHERS = {
    "layers": (lambda: make("llama", layers=4), "there 2 layers, here 4 layers"),
    "family": (lambda: make("qwen2"), "there the model is a llama, here the model is a qwen2"),
    "neurons": (lambda: changed("llama", intermediate_size=44), "there 48 neurons a layer, here 44 neurons a layer"),
    "width": (lambda: changed("llama", hidden_size=64, head_dim=8), r"mlp.down_proj: there (32, 48), here (64, 48)"),
    "biases": (lambda: changed("llama", mlp_bias=True), "mlp.down_proj.bias: there missing, here 32"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", OTHERS)
def test_another_model_is_refused_with_the_difference(kind, mode, tmp_path):
    make_other, difference = OTHERS[kind]
    plan, model = ready(make("llama"), mode), make_other()
    before = state_of(model)[:3]
    said = f"plan: it was made for another model ({difference}): make one for this model"
    for way in (plan.attach, plan.attach_in_place, lambda m: sft(m, tmp_path, [GuidedCallback(plan)])):
        with refuses(said):
            way(model)
        assert state_of(model)[:3] == before
        assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("mode", MODES)
def test_another_vocabulary_is_no_other_model(mode):
    model = make("llama")
    model.resize_token_embeddings(120)
    plan = ready(make("llama"), mode)
    assert plan.is_attached(plan.attach(model))


def test_a_second_attach_is_told_as_such():
    model = make("llama")
    plan = ready(model, "slice")
    attached = plan.attach(model)
    told = "plan: the model carries an adapter already, 'default' (attach to the plain model, or merge it first with "
    told += "model.merge_and_unload()"
    beside = ", or put one beside it with model.add_adapter(name, plan.peft_config())"
    for each, more in {"slice": beside, "lora": beside, "freeze": "", "subspace": ""}.items():
        with refuses(f"{told}{more})"):
            ready(make("llama"), each).attach(attached)
    attached.add_adapter("second", plan.peft_config())
    with pytest.raises(GuidedError, match=r"no module 'model\.layers\.0.*here it is 'base_model\.model\.model\."):
        get_peft_model(attached, plan.peft_config())
