"""Mixtures of experts in the anatomy: names, numbers, refusals, and law 4 for the neurons of experts."""

from __future__ import annotations

import json

import families
import moe
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from refusing import refuses
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft.anatomy import KINDS, Anatomy, Component, Slice, stored_weight
from guided_ft.errors import GuidedError
from guided_ft.scorers.methods.random import random
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection
from guided_ft.slice import SliceConfig

NEURONS = families.EXPERTS * families.PER_EXPERT
TOKENS = families.tokens(rows=16)


@pytest.fixture(scope="module")
def mixtral() -> Anatomy:
    return Anatomy.of(families.make("mixtral"))


# -- names -------------------------------------------------------------------------------------------------------------
@given(layer=st.integers(0, 999_999), expert=st.integers(0, 999_999), index=st.integers(0, 999_999_999))
def test_a_neuron_of_an_expert_prints_what_it_parses(layer, expert, index):
    neuron = Component("neuron", layer, index, expert)
    assert str(neuron) == f"L{layer}.E{expert}.N{index}"
    assert Component.parse(str(neuron)) == neuron


@pytest.mark.parametrize(
    "text", ["L0.E1", "L0.E1.H2", "E1.N2", "L0.N2.E1", "L0.E.N2", "L0.E1.N", "L0.E1N2", "L0.E1.E1.N2"]
)
def test_other_text_is_refused(text):
    with refuses(f"{text!r} names no component (write L3, L3.H5, L3.N120 or L3.E2.N7)"):
        Component.parse(text)


def test_components_sort_by_expert_before_neuron():
    texts = ["L0.H9", "L0", "L0.N5", "L0.E0.N1", "L0.E0.N9", "L0.E1.N0", "L1.E0.N0"]
    ordered = ["L0.H9", "L0", "L0.N5", "L0.E0.N1", "L0.E0.N9", "L0.E1.N0", "L1.E0.N0"]
    assert [str(c) for c in sorted(map(Component.parse, reversed(texts)))] == ordered


def test_components_are_listed_as_scores_are(moe_family):
    anatomy = Anatomy.of(families.make(moe_family))
    names = [f"L{i}.E{e}.N{n}" for i in range(2) for e in range(families.EXPERTS) for n in range(families.PER_EXPERT)]
    neurons = anatomy.components("neuron")
    assert [str(c) for c in neurons] == names
    assert [anatomy.position(c) for c in neurons] == 2 * list(range(NEURONS))
    scores = ScoreMap(anatomy, neuron=[range(NEURONS), range(NEURONS, 2 * NEURONS)])
    assert [scores.score(c) for c in neurons] == list(range(2 * NEURONS))
    assert [str(c) for c, _ in scores.top("neuron", 2)] == ["L1.E2.N7", "L1.E2.N6"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("L0.N3", "L0.N3: the neurons of this model are those of its experts (L0.E0.N0 to L0.E2.N7)"),
        ("L1.E3.N0", "L1.E3.N0: this model has 3 experts in layer 1 (L1.E0.N0 to L1.E2.N7)"),
        ("L1.E2.N8", "L1.E2.N8: this model has 8 neurons in each expert (L1.E0.N0 to L1.E2.N7)"),
        ("L2.E0.N0", "L2.E0.N0: this model has 2 layers (L0 to L1)"),
        ("L0.H4", "L0.H4: this model has 4 heads in layer 0 (L0.H0 to L0.H3)"),
    ],
)
def test_names_that_the_model_lacks_are_refused(mixtral, text, message):
    with refuses(message):
        mixtral.slices(text)
    with refuses(message):
        Selection.parse(text, mixtral)


def test_a_model_without_experts_refuses_their_names():
    llama = Anatomy.of(families.make("llama"))
    for text in ("L0.E0.N3", "L0.E*.N3"):
        with refuses("L0.E0.N3: the neurons of this model are not those of experts (L0.N0 to L0.N47)"):
            Selection.parse(text, llama)
    with refuses("L0.E1.H0: the heads of this model are not those of experts (L0.H0 to L0.H3)"):
        llama.check(Component("head", 0, 0, 1))


def test_selections_by_pattern(mixtral):
    assert Selection.parse("L0.E*.N7 L*.E1.N0", mixtral).text == "L0.E0.N7 L0.E1.N0 L0.E1.N7 L0.E2.N7 L1.E1.N0"
    assert len(Selection.parse("L*.E*.N*", mixtral)) == 2 * NEURONS
    selection = Selection.parse("L1.E2.N*", mixtral)
    assert selection.per_layer("neuron") == [0, families.PER_EXPERT]
    assert Selection.from_dict(json.loads(json.dumps(selection.to_dict()))) == selection


# -- numbers -----------------------------------------------------------------------------------------------------------
def test_numbers_of_every_family(moe_family):
    model = families.make(moe_family)
    anatomy = Anatomy.of(model)
    assert (anatomy.num_layers, anatomy.num_heads, anatomy.num_groups) == (2, 4, 2)
    assert (anatomy.num_experts, anatomy.neurons_per_expert, anatomy.num_neurons) == (3, 8, 24)
    assert anatomy.head_dim == families.MOE[moe_family].get("head_dim", 8)
    assert anatomy.hidden_size == families.HIDDEN
    assert anatomy.num_parameters == model.num_parameters()
    for name, shape in anatomy.shapes.items():
        assert tuple(stored_weight(model, anatomy.module(1, name)).shape) == shape
    assert Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict()))) == anatomy


def test_a_neuron_has_the_rows_and_columns_that_one_counts_by_hand():
    experts = "model.layers.1.mlp.experts"
    assert Anatomy.of(families.make("olmoe")).slices("L1.E2.N5") == [
        Slice(f"{experts}.down_proj", 1, (5,), 2),
        Slice(f"{experts}.gate_up_proj", 0, (5, 13), 2),
    ]
    assert Anatomy.of(families.make("gpt_oss")).slices("L1.E2.N5") == [
        Slice(f"{experts}.down_proj", 0, (5,), 2),
        Slice(f"{experts}.gate_up_proj", 1, (10, 11), 2),
    ]


def test_neurons_tile_the_experts(moe_family):
    model = families.make(moe_family)
    claims = {
        n: torch.zeros_like(p) for n, p in model.named_parameters() if ".experts." in n and not n.endswith("bias")
    }
    anatomy = Anatomy.of(model)
    for neuron in anatomy.components("neuron"):
        for part in anatomy.slices(neuron):
            claims[part.module][part.expert].index_add_(
                part.axis, torch.tensor(part.index), torch.ones_like(moe.cut(claims[part.module], part))
            )
    assert claims
    assert all((claim == 1).all() for claim in claims.values())


def test_costs_are_numbers_of_trained_elements(moe_family):
    model = families.make(moe_family)
    anatomy = Anatomy.of(model)
    for text in (*moe.SELECTIONS.values(), "L0.E*.N*"):
        selection = Selection.parse(text, anatomy)
        if "layer" in {c.kind for c in selection}:
            continue
        assert selection.num_parameters == sum(int(mask.sum()) for mask in moe.mask_of(model, text).values())
    assert anatomy.cost([anatomy.component("neuron", 0, 0)]) == 3 * families.HIDDEN
    block = sum(p.numel() for p in model.get_submodule(anatomy.layer_module(1)).parameters())
    assert anatomy.cost([Component("layer", 1), anatomy.component("neuron", 1, 3)]) == block


def test_a_layer_is_all_rows_of_all_experts(moe_family):
    model = families.make(moe_family)
    masks = moe.mask_of(model, "L0")
    assert len(masks) == 6
    assert all(mask.all() for mask in masks.values())


def test_an_adapter_does_not_change_the_anatomy(moe_family):
    model = families.make(moe_family)
    before = Anatomy.of(model)
    adapted = get_peft_model(model, SliceConfig(slices=moe.config_of(model, moe.SELECTIONS["both"])))
    assert Anatomy.of(adapted) == before


def test_files_of_models_without_experts_are_as_before():
    """Their hash is in plans, checkpoints and finished stages."""
    data = Anatomy.of(families.make("llama")).to_dict()
    assert "num_experts" not in data
    assert Anatomy.from_dict(data).num_experts == 0


@pytest.mark.parametrize(
    "damage",
    [
        {"num_experts": 0},
        {"num_experts": 4},
        {"num_experts": "3"},
        {"num_experts": True},
        {"num_neurons": 25},
        {"num_neurons": 8},
    ],
    ids=str,
)
def test_damaged_dicts_are_refused(mixtral, damage):
    with pytest.raises(GuidedError, match=r"^anatomy: not what Anatomy\.to_dict writes"):
        Anatomy.from_dict(mixtral.to_dict() | damage)


@pytest.mark.parametrize("shape", [[16, 32], [3, 16], [2, 16, 32], [3, 16, 32, 1], [], "3"], ids=str)
def test_damaged_shapes_are_refused(mixtral, shape):
    data = mixtral.to_dict()
    with pytest.raises(GuidedError, match=r"^anatomy: not what Anatomy\.to_dict writes"):
        Anatomy.from_dict(data | {"shapes": data["shapes"] | {"mlp.experts.gate_up_proj": shape}})


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "setting", [{"mlp_only_layers": [1]}, {"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}], ids=str
)
def test_neurons_of_dense_layers_between_sparse_ones_are_refused_by_layer(setting):
    config = AutoConfig.for_model("qwen3_moe", **families.MOE["qwen3_moe"] | setting)
    dense = 1 if setting.get("mlp_only_layers") == [1] else 0
    model = AutoModelForCausalLM.from_config(config)
    anatomy = Anatomy.of(model)
    assert anatomy.layers_of("head") == [0, 1]
    assert anatomy.layers_of("neuron") == [1 - dense]
    with refuses(
        f"L{dense}.E0.N1: layer {dense} of this model has no neurons that are known here (layers {1 - dense} have)"
    ):
        anatomy.slices(f"L{dense}.E0.N1")
    assert anatomy.cost([Component("layer", i) for i in (0, 1)]) == sum(
        p.numel() for p in model.model.layers.parameters()
    )
    parts = {anatomy.relative(p.module) for p in anatomy.slices(f"L{dense}")}
    assert {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} < parts
    assert parts.isdisjoint({"mlp.experts.gate_up_proj", "mlp.experts.down_proj"})
    assert Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict()))) == anatomy


def test_quantized_experts_are_refused_by_name():
    model = families.make("gpt_oss")
    experts = model.model.layers[1].mlp.experts
    experts.down_proj = torch.nn.Parameter(torch.zeros(3, 8, 32, dtype=torch.uint8), requires_grad=False)
    with refuses("gpt_oss: mlp.experts.down_proj is quantized or packed (load the model unquantized)"):
        Anatomy.of(model)


# -- law 4 -------------------------------------------------------------------------------------------------------------
def test_zeroing_a_neurons_down_column_silences_the_neuron(moe_family):
    model = families.make(moe_family)
    anatomy = Anatomy.of(model)
    model.set_experts_implementation("batched_mm")
    intact = families.logits(model, TOKENS)
    for neuron in anatomy.components("neuron"):
        part = moe.part_of(anatomy, neuron, anatomy.family.down)
        weight = stored_weight(model, part.module)
        kept = weight.data.clone()
        weight.data[part.expert].index_fill_(part.axis, torch.tensor(part.index), 0)
        by_weights = families.logits(model, TOKENS)
        weight.data.copy_(kept)

        def silence(said, expert, _weight, neuron=neuron):
            said = said.clone()
            said[expert == neuron.expert, neuron.index] = 0
            return said

        with moe.neurons_seen(model, neuron.layer, silence):
            by_gate = families.logits(model, TOKENS)
        assert (by_weights - by_gate).abs().max() <= 1e-6, neuron
        assert (by_weights - intact).abs().max() > 1e-4, f"{neuron}: makes no difference, so nothing is proved"
    assert torch.equal(families.logits(model, TOKENS), intact)


def test_the_gradient_of_one_neuron_touches_exactly_its_rows(moe_family):
    model = families.make(moe_family)
    anatomy = Anatomy.of(model)
    for layer in range(anatomy.num_layers):
        seen = []
        with moe.neurons_seen(model, layer, lambda *found, seen=seen: seen.append(found)):
            model(input_ids=TOKENS)
        [(said, expert, _)] = seen
        for number in range(anatomy.num_neurons):
            neuron = anatomy.component("neuron", layer, number)
            part = moe.part_of(anatomy, neuron, anatomy.family.up[0].module)
            mine = said[expert == neuron.expert, neuron.index]
            [gradient] = torch.autograd.grad(
                mine.square().sum(), [stored_weight(model, part.module)], retain_graph=True
            )
            touched = gradient.abs().amax(2 - part.axis).nonzero().tolist()
            assert touched == [[part.expert, i] for i in part.index], neuron


def test_random_scores_cover_all_kinds(mixtral):
    scores = random(None, mixtral)
    assert scores.kinds == KINDS
    assert scores.neuron.shape == (2, NEURONS)
