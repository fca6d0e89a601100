"""Anatomy: names, numbers and files. That the map is true is proved in ``test_anatomy_law.py``."""

from __future__ import annotations

import copy
import json
import math

import families
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import IA3Config, LoHaConfig, LoraConfig, get_peft_model
from refusing import refuses
from slicing import attach
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft.anatomy import FAMILIES, KINDS, Anatomy, Component, Slice
from guided_ft.errors import GuidedError

_LETTER = {"head": "H", "neuron": "N"}


@pytest.fixture(scope="module")
def llama() -> Anatomy:
    return Anatomy.of(families.make("llama"))


@given(layer=st.integers(0, 999_999), index=st.integers(0, 999_999_999), kind=st.sampled_from(KINDS))
def test_component_prints_what_it_parses(layer, index, kind):
    component = Component(kind, layer, index if kind != "layer" else 0)
    text = f"L{layer}" + (f".{_LETTER[kind]}{index}" if kind != "layer" else "")
    assert str(component) == repr(component) == text
    assert Component.parse(text) == Component.parse(f"  {text}\n") == component


@pytest.mark.parametrize(
    "text",
    [
        "",
        "L",
        "3",
        "l3",
        "L-1",
        "L3.",
        "L3.H",
        "L3.X5",
        "L3.H-5",
        "L3.H5.N1",
        "L3 .H5",
        "L*.H1",
        "L1234567",
        "L3.N1234567890",
    ],
)
def test_component_refuses_other_text(text):
    with refuses(f"{text!r} names no component (write L3, L3.H5, L3.N120 or L3.E2.N7)"):
        Component.parse(text)


@given(st.text(max_size=12))
def test_component_text_is_read_or_refused(text):
    try:
        component = Component.parse(text)
    except GuidedError:
        return
    assert Component.parse(str(component)) == component


def test_numbers_of_every_family(family):
    model = families.make(family)
    anatomy = Anatomy.of(model)
    assert anatomy.model_type == family
    assert (anatomy.num_layers, anatomy.num_heads, anatomy.num_neurons) == (2, 4, 48)
    assert anatomy.num_groups == families.GROUPS[family]
    assert anatomy.head_dim == families.HEAD_DIM[family]
    assert anatomy.heads_per_group == 4 // families.GROUPS[family]
    assert anatomy.num_parameters == model.num_parameters()
    for i in range(2):
        block = model.get_submodule(anatomy.layer_module(i))
        assert anatomy.parameters == {name: p.numel() for name, p in block.named_parameters()}
        for name, shape in anatomy.shapes.items():
            assert tuple(model.get_submodule(anatomy.module(i, name)).weight.shape) == shape


def test_slices_lie_inside_the_stored_weights(family):
    model = families.make(family)
    anatomy = Anatomy.of(model)
    for kind in KINDS:
        for component in anatomy.components(kind):
            for part in anatomy.slices(component):
                shape = model.get_submodule(part.module).weight.shape
                assert part.index == tuple(sorted(set(part.index)))
                assert part.index[0] >= 0
                assert part.index[-1] < shape[part.axis]


def test_heads_and_neurons_tile_the_projections(family):
    """Each row of q, k, v, gate and up and each column of out and down has an owner, and no two share one."""
    anatomy = Anatomy.of(families.make(family))
    for kind in ("head", "neuron"):
        owned: dict[tuple[str, int], list[int]] = {}
        for component in anatomy.components(kind):
            for part in anatomy.trainable([component]):
                owned.setdefault((part.module, part.axis), []).extend(part.index)
        for part in anatomy.trainable(anatomy.components(kind)):
            axis_length = anatomy.shapes[anatomy.relative(part.module)][part.axis]
            assert part.index == tuple(range(axis_length))
            claims = owned.get((part.module, part.axis), [])
            assert len(claims) == len(set(claims)), f"{part.module} has rows with two owners"


def test_components_are_listed_in_order(llama):
    assert llama.components("layer") == [Component("layer", 0), Component("layer", 1)]
    assert [str(c) for c in llama.components("head")] == [f"L{i}.H{j}" for i in range(2) for j in range(4)]
    assert len(llama.components("neuron")) == 96


def test_a_head_has_the_rows_and_columns_that_one_counts_by_hand(llama):
    attention = "model.layers.1.self_attn"
    assert llama.slices("L1.H3") == [
        Slice(f"{attention}.k_proj", 0, tuple(range(8, 16))),
        Slice(f"{attention}.o_proj", 1, tuple(range(24, 32))),
        Slice(f"{attention}.q_proj", 0, tuple(range(24, 32))),
        Slice(f"{attention}.v_proj", 0, tuple(range(8, 16))),
    ]
    mlp = "model.layers.0.mlp"
    assert llama.slices("L0.N7") == [
        Slice(f"{mlp}.down_proj", 1, (7,)),
        Slice(f"{mlp}.gate_proj", 0, (7,)),
        Slice(f"{mlp}.up_proj", 0, (7,)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("L2", "L2: this model has 2 layers (L0 to L1)"),
        ("L9.H0", "L9.H0: this model has 2 layers (L0 to L1)"),
        ("L1.H4", "L1.H4: this model has 4 heads in layer 1 (L1.H0 to L1.H3)"),
        ("L0.N48", "L0.N48: this model has 48 neurons in layer 0 (L0.N0 to L0.N47)"),
    ],
)
def test_components_that_the_model_lacks_are_refused(llama, text, message):
    for use in (
        llama.slices,
        lambda t: llama.trainable([Component.parse(t)]),
        lambda t: llama.cost([Component.parse(t)]),
    ):
        with refuses(message):
            use(text)


def test_negative_numbers_are_refused_not_counted_from_the_end(llama):
    with refuses("L-1.H0: this model has 2 layers (L0 to L1)"):
        llama.check(Component("head", -1, 0))
    with refuses("L0.H-1: this model has 4 heads in layer 0 (L0.H0 to L0.H3)"):
        llama.check(Component("head", 0, -1))


def test_unknown_kind_is_refused_with_the_nearest(llama):
    with refuses("kind: unknown value 'heads' (did you mean 'head'?)"):
        llama.components("heads")


def test_a_group_is_trained_only_when_all_its_heads_are_chosen(llama):
    def rows(*names):
        parts = llama.trainable(Component.parse(n) for n in names)
        return {llama.relative(p.module).removeprefix("self_attn."): p.index for p in parts}

    assert rows("L0.H0") == {"q_proj": tuple(range(8)), "o_proj": tuple(range(8))}
    assert rows("L0.H0", "L0.H1") == {
        "q_proj": tuple(range(16)),
        "o_proj": tuple(range(16)),
        "k_proj": tuple(range(8)),
        "v_proj": tuple(range(8)),
    }
    across = rows("L0.H1", "L0.H2")
    assert set(across) == {"q_proj", "o_proj"}
    assert across["q_proj"] == tuple(range(8, 24))
    assert rows("L0.H3", "L0.H1", "L0.H2")["v_proj"] == tuple(range(8, 16))


def test_heads_of_different_layers_make_no_group(llama):
    parts = llama.trainable([Component("head", 0, 0), Component("head", 1, 1)])
    assert {llama.relative(p.module) for p in parts} == {"self_attn.q_proj", "self_attn.o_proj"}


def test_group_law_in_fused_layouts():
    phi3 = Anatomy.of(families.make("phi3"))
    [fused] = [p for p in phi3.trainable([Component("head", 0, 2)]) if p.module.endswith("qkv_proj")]
    assert fused.index == tuple(range(16, 24))
    pair = [Component("head", 0, 2), Component("head", 0, 3)]
    [fused] = [p for p in phi3.trainable(pair) if p.module.endswith("qkv_proj")]
    # 32 rows of q, then 16 of k and 16 of v: group 1 is the second half of each.
    assert fused.index == (*range(16, 32), *range(40, 48), *range(56, 64))
    neox = Anatomy.of(families.make("gpt_neox"))
    [fused] = [p for p in neox.trainable([Component("head", 0, 1)]) if p.module.endswith("query_key_value")]
    assert fused.index == tuple(range(24, 48))


def test_cost_counted_by_hand(llama):
    head, neuron = 2 * 8 * 32, 3 * 32
    group = 2 * 8 * 32
    assert llama.cost([Component("neuron", 0, 3)]) == neuron
    assert llama.cost([Component("head", 0, 0)]) == head
    assert llama.cost([Component("head", 0, 0), Component("head", 0, 1)]) == 2 * head + group
    assert llama.cost(llama.components("head")) == 2 * (4 * head + 2 * group)
    assert llama.cost([]) == 0


def test_cost_is_the_number_of_trained_elements(family):
    model = families.make(family)
    anatomy = Anatomy.of(model)
    heads, neurons = anatomy.components("head"), anatomy.components("neuron")
    for chosen in ([heads[1]], heads[:2], heads, neurons[5:9], [*heads[:3], *neurons[40:60]]):
        elements = 0
        for part in anatomy.trainable(chosen):
            weight = model.get_submodule(part.module).weight
            elements += weight.numel() // weight.shape[part.axis] * len(part.index)
        assert anatomy.cost(chosen) == elements > 0


def test_a_layer_costs_all_parameters_of_its_block(family):
    model = families.make(family)
    anatomy = Anatomy.of(model)
    block = sum(p.numel() for p in model.get_submodule(anatomy.layer_module(1)).parameters())
    layer = Component("layer", 1)
    assert anatomy.cost([layer]) == block
    assert anatomy.cost([layer, Component("head", 1, 0), Component("neuron", 1, 9)]) == block
    elsewhere = Component("neuron", 0, 9)
    assert anatomy.cost([layer, elsewhere]) == block + anatomy.cost([elsewhere])


def test_a_layer_is_all_rows_of_all_projections(family):
    anatomy = Anatomy.of(families.make(family))
    parts = {anatomy.relative(p.module): (p.axis, p.index) for p in anatomy.slices("L0")}
    axis = 1 if family == "gpt2" else 0
    assert parts == {name: (axis, tuple(range(shape[axis]))) for name, shape in anatomy.shapes.items()}


def test_row_tables_agree_with_slices(family):
    anatomy = Anatomy.of(families.make(family))
    kinds = {"head": (anatomy.family.query, anatomy.family.key, anatomy.family.value), "neuron": anatomy.family.up}
    for kind, tables in kinds.items():
        for component in anatomy.components(kind):
            expected: dict[str, list[int]] = {}
            for rows in tables:
                if kind == "neuron":
                    part = [int(anatomy.neuron_rows(rows)[component.index])]
                else:
                    shared = 1 if rows is anatomy.family.query else anatomy.heads_per_group
                    part = anatomy.head_rows(rows)[component.index // shared].tolist()
                expected.setdefault(anatomy.module(component.layer, rows.module), []).extend(part)
            found = {p.module: list(p.index) for p in anatomy.slices(component) if p.module in expected}
            assert found == {module: sorted(index) for module, index in expected.items()}


@pytest.mark.parametrize("method", ["slice", "lora"])
def test_an_adapter_does_not_change_the_anatomy(family, method):
    model = families.make(family)
    before = Anatomy.of(model)
    if method == "slice":
        adapted = attach(model, "L0.H0 L0.N3 L1.N5")
    else:
        targets = sorted({name.rsplit(".", 1)[-1] for name in before.shapes})
        adapted = get_peft_model(model, LoraConfig(target_modules=targets, r=2, fan_in_fan_out=family == "gpt2"))
    assert any(p.requires_grad for p in adapted.parameters())
    assert Anatomy.of(adapted) == Anatomy.of(model) == before


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm", "o_proj"]),
        LoraConfig(r=2, target_modules=["embed_tokens", "lm_head", "q_proj"], use_dora=False),
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 4]),
        LoraConfig(r=2, target_modules=["q_proj", "o_proj"], use_dora=True),
        LoHaConfig(r=2, target_modules=["q_proj", "down_proj"]),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["saved", "saved_inside", "embeddings", "tokens", "dora", "loha", "ia3"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_nothing_that_an_adapter_adds_is_the_models(config, tied):
    settings = families.FAMILIES["llama"] | {"tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings))
    before = Anatomy.of(model)
    assert Anatomy.of(get_peft_model(model, copy.deepcopy(config))) == before


def test_dict_round_trip_through_json(family):
    anatomy = Anatomy.of(families.make(family))
    again = Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict())))
    assert again == anatomy
    assert again.slices("L1.H2") == anatomy.slices("L1.H2")


@pytest.mark.parametrize(
    "damage",
    [
        {"shapes": None},
        {"shapes": {"q": 5}},
        {"shapes": {}},
        {"parameters": "many"},
        {"parameters": {}},
        {"parameters": {"q": math.inf}},
        {"parameters": {"q": 10**9}},
        {"parameters": {"q": -5, "k": 9}},
        {"num_heads": "4"},
        {"num_heads": 2.5},
        {"num_heads": 0},
        {"num_groups": 0},
        {"num_groups": 3},
        {"num_layers": -1},
        {"num_layers": True},
        {"num_layers": 10**12},
        {"num_parameters": 0},
        {"head_dim": 7},
        {"num_neurons": 49},
        {"prefix": 3},
        {"model_type": None},
        {"model_type": ["llama"]},
        {"surplus": 1},
        {"absent": {"self_attn.q_proj": [0, 1]}},
        {"absent": {"self_attn.q_proj": [2]}},
        {"absent": {"nonsense": [0]}},
        {"absent": [1]},
        {"odd_parameters": {"0": {"q": 10**9}}},
        {"odd_parameters": {"7": {"q": 1}}},
        {"odd_parameters": {"x": {"q": 1}}},
        {"layout": "nonsense"},
        {"unproved": 3},
    ],
    ids=str,
)
def test_damaged_dicts_are_refused(llama, damage):
    with pytest.raises(GuidedError):
        Anatomy.from_dict(llama.to_dict() | damage)


def test_missing_key_is_refused_by_name(llama):
    data = llama.to_dict()
    del data["shapes"]
    with refuses("anatomy: not what Anatomy.to_dict writes ('shapes')"):
        Anatomy.from_dict(data)


def test_unknown_architecture_says_how_to_add_it():
    config = AutoConfig.for_model("bert", vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    known = len({name for family in FAMILIES for name in family.model_types})
    with refuses(
        f"architecture 'bert' is unknown, and it has no list of layers with linear layers in them ({known} others are "
        "known: guided_ft/anatomy/FAMILIES.md; a row in llamas.py, gpts.py or experts.py adds one)"
    ):
        Anatomy.of(AutoModelForCausalLM.from_config(config))


def test_what_a_layer_lacks_is_refused_by_layer():
    model = families.make("llama")
    model.model.layers[1].mlp.down_proj.out_features = 31
    anatomy = Anatomy.of(model)
    assert anatomy.layers_of("neuron") == [0]
    assert anatomy.components("neuron")[-1] == Component("neuron", 0, 47)
    assert len(anatomy.components("head")) == 8
    for use in (anatomy.slices, lambda t: anatomy.cost([Component.parse(t)])):
        with refuses("L1.N0: layer 1 of this model has no neurons that are known here (layers 0 have)"):
            use("L1.N0")
    assert Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict()))) == anatomy
    for layer in model.model.layers:
        del layer.self_attn.k_proj
    with refuses("llama: no layer has self_attn.k_proj (is it packed, or quantized in an unknown way?)"):
        Anatomy.of(model)


def test_every_known_architecture_has_a_row_only_once():
    names = [(name, family.when) for family in FAMILIES for name in family.model_types]
    assert len(names) == len(set(names))
    assert set(families.NAMES) <= {name for name, _ in names}
    layouts = [family.layout for family in FAMILIES]
    assert len(layouts) == len(set(layouts))
