"""``guided-ft estimate``: what it says of a model that it never makes is what training that model takes."""

from __future__ import annotations

import itertools

import families
import pytest
import torch
from estimates import KEYS, config_of
from transformers import AutoModelForCausalLM

from guided_ft.anatomy import Anatomy
from guided_ft.estimate.dry_run import saved_bytes
from guided_ft.estimate.estimate import estimate
from guided_ft.estimate.flops import Batch
from guided_ft.estimate.footprint import STORAGES, footprint, on_meta
from guided_ft.estimate.ways import ways
from guided_ft.plan.modes.typical import spread, topmost

# A LoRA cannot hold neurons of experts.
CASES = [(name, key) for name in (*families.NAMES, *families.MOE) for key in KEYS]
CASES = [case for case in CASES if case[0] not in families.MOE or case[1] != "lora_same"]

every_case = pytest.mark.parametrize(("family", "key"), CASES)

# Of experts: three neurons of each in four layers; with as many in all it does not matter where the tokens go.
BUDGETS = dict.fromkeys(families.NAMES, 9_000) | dict.fromkeys(families.MOE, 4 * 3 * 3 * 3 * families.HIDDEN)

BUDGET = 9_000

BATCH = Batch(2, 12)


def real(name: str, layers: int = 4) -> torch.nn.Module:
    """The family's model with the attention that training uses, nothing of it trained."""
    model = AutoModelForCausalLM.from_config(config_of(name, layers), attn_implementation=None)
    return model.requires_grad_(False).train()


def estimated(name: str, key: str, dtype: str = "float32"):
    config = config_of(name)
    config._attn_implementation = None
    with on_meta(config, STORAGES[dtype].dtype) as model:
        anatomy = Anatomy.of(model)
        arm = next(arm for arm in ways(anatomy, BUDGETS[name], rank=2) if arm.key == key)
        return footprint(arm.attach(model), anatomy, arm.work().first_layer, BATCH, STORAGES[dtype], False)


def attached(name: str, key: str) -> torch.nn.Module:
    model = real(name)
    return next(arm for arm in ways(Anatomy.of(model), BUDGETS[name], rank=2) if arm.key == key).attach(model)


def padded() -> dict[str, torch.Tensor]:
    ids = families.tokens(BATCH.rows, BATCH.length)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


@every_case
def test_gradients_and_optimizer_are_what_torch_holds(family, key):
    model = attached(family, key)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(**padded(), labels=padded()["input_ids"]).loss.backward()
    optimizer.step()
    found = estimated(family, key)
    assert found.trained == sum(p.numel() for p in trained)
    assert found.weights == sum(p.nbytes for p in model.parameters())
    assert found.gradients == sum(p.grad.nbytes for p in trained)
    state = optimizer.state_dict()["state"].values()
    assert found.optimizer == sum(tensor.nbytes for entry in state for tensor in entry.values())
    assert found.trained <= BUDGETS[family] or key in ("full", "lora")


@every_case
def test_activations_are_what_autograd_saves_of_a_padded_batch(family, key):
    model = attached(family, key)
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = model.get_decoder()(**padded(), use_cache=False)
    for tensor in (*model.parameters(), *model.buffers()):
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    del held
    logits = BATCH.tokens * families.VOCAB * 12
    expected = sum(storage.nbytes() for storage in saved.values())
    found = estimated(family, key).activations - logits
    assert found == expected


@pytest.mark.parametrize(("family", "key"), [case for case in CASES if case[1] not in ("full", "freeze")])
def test_the_file_of_an_adapter_is_as_large_as_said(family, key, tmp_path):
    model = attached(family, key)
    model.save_pretrained(tmp_path)
    assert estimated(family, key).file == (tmp_path / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize("dtype", STORAGES)
def test_adapters_are_float32_whatever_the_base(dtype):
    found = estimated("llama", "slice", dtype)
    assert found.gradients == 4 * found.trained
    base = found.weights - found.gradients
    projections = 4 * sum(a * b for a, b in Anatomy.of(families.make("llama")).shapes.values())
    rows = 4 * sum(a for a, _ in Anatomy.of(families.make("llama")).shapes.values())
    others = Anatomy.of(families.make("llama", layers=4)).num_parameters - projections
    per_weight = {"float32": 4, "bfloat16": 2, "nf4": 0.5625, "int8": 1}[dtype]
    scales = 4 * rows if dtype == "int8" else 0
    assert base == per_weight * projections + scales + others * (4 if dtype == "float32" else 2)


def test_the_weights_of_quantized_models_are_as_large_as_said():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = torch.nn.Linear(64, 96, bias=False)
    for dtype, module in (
        ("nf4", bitsandbytes.nn.LinearNF4(64, 96, bias=False, compress_statistics=False)),
        ("int8", bitsandbytes.nn.Linear8bitLt(64, 96, bias=False, has_fp16_weights=False)),
    ):
        module.load_state_dict(linear.state_dict())
        weight = module.to("cpu").weight
        storage = STORAGES[dtype]
        scales = weight.quant_state.absmax if dtype == "nf4" else weight.SCB
        assert weight.nbytes + scales.nbytes == 64 * 96 * storage.bytes_per_weight + 96 * storage.bytes_per_row


def test_lora_is_asked_for_linear_layers_only(moe_family):
    model = attached(moe_family, "lora")
    wanted = model.peft_config["default"].target_modules
    assert len(wanted) == 4 * 4
    assert all(isinstance(model.base_model.model.get_submodule(name).base_layer, torch.nn.Linear) for name in wanted)


def test_experts_are_not_quantized():
    found = {dtype: estimated("mixtral", "slice", dtype) for dtype in ("bfloat16", "nf4")}
    anatomy = Anatomy.of(families.make("mixtral", layers=4))
    linear = sum(a * b for a, b in (s for n, s in anatomy.shapes.items() if not anatomy.family.of_experts(n)))
    assert found["bfloat16"].weights - found["nf4"].weights == 4 * linear * (2 - 0.5625)


def test_checkpointing_keeps_the_inputs_of_the_trained_layers_and_one_layer():
    rows = {}
    for checkpointing in (False, True):
        config = config_of("llama", layers=6)
        with on_meta(config, torch.float32) as model:
            anatomy = Anatomy.of(model)
            arm = next(a for a in ways(anatomy, 9000) if a.key == "slice_top")
            model, lowest = arm.attach(model), arm.work().first_layer
            found = footprint(model, anatomy, lowest, BATCH, STORAGES["float32"], checkpointing)
            rows[checkpointing] = found.activations
    logits = BATCH.tokens * families.VOCAB * 12
    inputs = 2 * BATCH.tokens * families.HIDDEN * 4
    assert rows[True] - logits == (rows[False] - logits) // 2 + inputs


def test_nothing_below_the_lowest_trained_layer_is_kept():
    config = config_of("llama", layers=6)
    with on_meta(config, torch.float32) as model:
        anatomy = Anatomy.of(model)
    kept = []
    for layer in range(6):
        with on_meta(config, torch.float32) as model:
            from guided_ft.plan.plan import Plan

            kept.append(saved_bytes(Plan(spread(anatomy, 3000, [layer])).attach(model), BATCH))
    # The top layer alone needs nothing of the attention either, the others all they have.
    steps = [a - b for a, b in itertools.pairwise(kept[:-1])]
    assert min(steps) > 0
    assert max(steps) == min(steps)


def test_memory_grows_with_the_batch_and_the_labels(tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    small, large, sparse = (
        estimate(str(tmp_path), BUDGET, **options).rows[3].memory
        for options in ({"rows": 4}, {"rows": 8}, {"rows": 8, "labelled": 0.25})
    )
    assert 1.95 < large.activations / small.activations <= 2.001
    assert large.activations - sparse.activations == 6 * 128 * families.VOCAB * 12
    assert (small.gradients, small.optimizer, small.file) == (large.gradients, large.optimizer, large.file)


@pytest.mark.parametrize("budget", [96, 97, 500, 3000, 9000, 10**6])
@pytest.mark.parametrize("layers", [range(4), range(2, 4)])
def test_neurons_are_spread_evenly_and_within_the_budget(budget, layers):
    anatomy = Anatomy.of(families.make("llama", layers=4))
    chosen = spread(anatomy, budget, layers)
    assert chosen.num_parameters <= budget
    assert chosen.num_parameters > budget - 96 or len(chosen) == len(layers) * anatomy.num_neurons
    counts = [n for i, n in enumerate(chosen.per_layer("neuron")) if i in layers]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == len(chosen) == len(set(chosen.components))
    for layer in layers:
        index = [c.index for c in chosen if c.layer == layer]
        # From the last one on to the first, too: even gaps alone would let them bunch at one end.
        gaps = {b - a for a, b in itertools.pairwise([*index, *(n + anatomy.num_neurons for n in index[:1])])}
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_freezing_takes_whole_units_from_the_top():
    anatomy = Anatomy.of(families.make("llama", layers=4))
    mlp, attention = 3 * 32 * 48, 2 * 32 * 32 + 2 * 16 * 32
    chosen = topmost(anatomy, 2 * mlp + attention)
    assert chosen.counts() == {"layer": 0, "head": 4, "neuron": 96}
    assert chosen.per_layer("neuron") == [0, 0, 48, 48]
    assert chosen.per_layer("head") == [0, 0, 0, 4]
    assert topmost(anatomy, mlp - 1).counts() == {"layer": 0, "head": 4, "neuron": 0}


def test_a_budget_that_buys_nothing_is_a_note_in_its_row(tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    rows = {row.key: row for row in estimate(str(tmp_path), 100).rows}
    assert rows["slice"].memory.trained == 96
    assert rows["freeze"].memory is None
    assert rows["freeze"].note == "a budget of 100 parameters buys no whole attention or MLP (from 3,072)"
    rows = {row.key: row for row in estimate(str(tmp_path), 95).rows}
    assert rows["slice"].note == "a budget of 95 parameters buys no neuron (one takes 96)"
