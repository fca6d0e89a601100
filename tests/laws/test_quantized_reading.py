"""A quantized model is read as the model that it was: sizes, budgets, magnitudes, fingerprints."""

from __future__ import annotations

import families
import numpy as np
import pytest
import torch
from slicing import attach
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from guided_ft import Anatomy, Plan, ScoreMap, Selection, select
from guided_ft.callback.certify import Certificate, fingerprint
from guided_ft.errors import GuidedError
from guided_ft.scorers.methods.magnitude import magnitude
from guided_ft.scorers.watch.scene import checked
from guided_ft.slice.storage import dequantize, quantized_layers

pytest.importorskip("bitsandbytes")

from quantized import KINDS, is_quantized, load, logits, make, plain_twin

quantizations = pytest.mark.parametrize("kind", KINDS)
two_families = pytest.mark.parametrize("name", ["llama", "gpt2"])


def random_map(anatomy: Anatomy) -> ScoreMap:
    generator = np.random.default_rng(0)
    return ScoreMap(
        anatomy,
        head=generator.random((anatomy.num_layers, anatomy.num_heads)),
        neuron=generator.random((anatomy.num_layers, anatomy.num_neurons)),
    )


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_anatomy_and_its_budgets_are_the_plain_models(family, kind, tmp_path):
    model, plain = load(family, kind, tmp_path), make(family)
    layers = [name for name, layer in model.named_modules() if is_quantized(layer)]
    assert len(layers) >= 2 * families.LAYERS
    assert list(quantized_layers(model)) == layers
    anatomy, expected = Anatomy.of(model), Anatomy.of(plain)
    assert anatomy.to_dict() == expected.to_dict()
    assert anatomy.num_parameters == sum(p.numel() for p in plain.parameters())
    selection = select(random_map(anatomy), budget="10%", kinds=("head", "neuron"))
    wanted = select(random_map(expected), budget="10%", kinds=("head", "neuron"))
    assert selection.components == wanted.components
    # Counted on the plain model: a tenth of its weights, not of the bytes that hold them.
    plan = Plan(selection)
    trained = sum(p.numel() for p in plan.attach(model).parameters() if p.requires_grad)
    assert trained == plan.num_parameters
    assert 0.08 * expected.num_parameters < trained <= 0.1 * expected.num_parameters
    # An adapter is not counted, and hides nothing.
    assert Anatomy.of(model).to_dict() == expected.to_dict()


@quantizations
@two_families
def test_magnitudes_are_those_of_what_the_codes_stand_for(name, kind, tmp_path):
    model = load(name, kind, tmp_path)
    found = magnitude(model, Anatomy.of(model))
    expected = magnitude(plain_twin(name, model), Anatomy.of(make(name)))
    exact = magnitude(make(name), Anatomy.of(make(name)))
    for part in ("layer", "head", "neuron"):
        assert np.allclose(found.of(part), expected.of(part), rtol=1e-5, atol=0), part
        # They are not the unquantized model's, but near: codes and scales apart are nowhere near.
        assert not np.allclose(found.of(part), exact.of(part), rtol=1e-6, atol=0)
        assert np.allclose(found.of(part), exact.of(part), rtol=0.1, atol=0), part
    adapted = attach(model, "L0.H0 L0.H1 L0.N3 L1.N4", changed=True)
    assert np.array_equal(magnitude(adapted, Anatomy.of(adapted)).neuron, found.neuron)


@quantizations
@two_families
def test_dequantized_it_computes_the_same(name, kind, tmp_path):
    model = load(name, kind, tmp_path)
    expected = logits(model)
    kinds = [type(module) for module in make(name).modules()]
    dequantize(model)
    assert [type(module) for module in model.modules()] == kinds
    assert not quantized_layers(model)
    assert (logits(model) - expected).abs().max() <= 1e-4


def test_codes_that_are_stored_as_floating_point_are_no_numbers(tmp_path):
    """As QLoRA with FSDP has them: bfloat16 is then the dtype of the box, not of what is inside."""
    make("llama").save_pretrained(tmp_path)
    config = BitsAndBytesConfig(**KINDS["nf4"], bnb_4bit_quant_storage=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    anatomy = Anatomy.of(model)
    assert anatomy.to_dict() == Anatomy.of(make("llama")).to_dict()
    found, expected = magnitude(model, anatomy), magnitude(load("llama", "nf4", tmp_path), anatomy)
    assert np.array_equal(found.neuron, expected.neuron)
    plan = Plan(Selection.parse("L1", anatomy), "freeze")
    with pytest.raises(GuidedError, match=r"^freeze: .* is quantized and cannot be trained"):
        plan.attach(model)
    with pytest.raises(GuidedError, match=r"is quantized \(use method='attribution'"):
        checked(model.model.layers[0].mlp.up_proj.weight, "up_proj", "wanda")


@quantizations
def test_a_scale_that_moves_is_noticed(kind, tmp_path):
    """With half the scales a model has the same codes, and is another one."""
    model = load("llama", kind, tmp_path)
    before = fingerprint(model)
    assert Certificate.compare(before, fingerprint(load("llama", kind, tmp_path))).ok
    logits(model)
    assert Certificate.compare(before, fingerprint(model)).ok, "eight-bit scales move house at the first pass"
    layer = model.get_submodule("model.layers.1.mlp.up_proj")
    scales = layer.state.SCB if kind == "int8" else layer.weight.quant_state.absmax
    with torch.no_grad():
        scales[0] = scales[0] / 2 if scales.is_floating_point() else scales[0] ^ 1
    certificate = Certificate.compare(before, fingerprint(model))
    assert len(certificate.moved) == 1
    assert certificate.moved[0].startswith("model.layers.1.mlp.up_proj.weight.")
    adapted = attach(load("llama", kind, tmp_path), "L0.H0 L0.H1 L0.N3 L1.N4")
    assert Certificate.compare(before, fingerprint(adapted)).ok
    assert len(fingerprint(adapted)) == len(before)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_selection_is_the_same_on_either_model(kind, tmp_path):
    """What was localized on one can be trained on the other: GPT-2's axes too."""
    model, plain = load("gpt2", kind, tmp_path), make("gpt2")
    plan = Plan(Selection.parse("L0.H1 L0.N3 L1.N40", Anatomy.of(plain)))
    shapes = {}
    for which, base in (("quantized", model), ("plain", plain)):
        attached = plan.attach(base)
        shapes[which] = {n: tuple(p.shape) for n, p in attached.named_parameters() if p.requires_grad}
        assert set(shapes[which]) == plan.expected_trainable
    assert shapes["quantized"] == shapes["plain"]
