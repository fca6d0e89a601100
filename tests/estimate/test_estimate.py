"""``guided-ft estimate``: what it says of a model that it never makes is what training that model takes."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import families
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft.anatomy import Anatomy
from guided_ft.cli import main
from guided_ft.errors import GuidedError
from guided_ft.estimate.dry_run import saved_bytes
from guided_ft.estimate.estimate import LARGEST, estimate, readable
from guided_ft.estimate.flops import Batch, active_parameters
from guided_ft.estimate.footprint import STORAGES, footprint, on_meta
from guided_ft.estimate.ways import arms, spread, topmost
from guided_ft.models import EMBEDDED, cache_folder

KEYS = ("full", "lora", "lora_same", "slice", "slice_top", "freeze")
# A LoRA cannot hold neurons of experts.
CASES = [(name, key) for name in (*families.NAMES, *families.MOE) for key in KEYS]
CASES = [case for case in CASES if case[0] not in families.MOE or case[1] != "lora_same"]
every_case = pytest.mark.parametrize(("family", "key"), CASES)
# Of experts: three neurons of each in four layers; with as many in all it does not matter where the tokens go.
BUDGETS = dict.fromkeys(families.NAMES, 9_000) | dict.fromkeys(families.MOE, 4 * 3 * 3 * 3 * families.HIDDEN)
BUDGET = 9_000
BATCH = Batch(2, 12)
SMOLLM2 = "smollm2-135m-instruct"


def config_of(name: str, layers: int = 4) -> AutoConfig:
    return families.make(name, layers=layers).config


def real(name: str, layers: int = 4) -> torch.nn.Module:
    """The family's model with the attention that training uses, nothing of it trained."""
    model = AutoModelForCausalLM.from_config(config_of(name, layers), attn_implementation=None)
    return model.requires_grad_(False).train()


def estimated(name: str, key: str, dtype: str = "float32"):
    config = config_of(name)
    config._attn_implementation = None
    with on_meta(config, STORAGES[dtype].dtype) as model:
        anatomy = Anatomy.of(model)
        model = next(arm for arm in arms(anatomy, BUDGETS[name], rank=2) if arm.key == key).attach(model)
        return footprint(model, anatomy, BATCH, STORAGES[dtype], False)


def attached(name: str, key: str) -> torch.nn.Module:
    model = real(name)
    return next(arm for arm in arms(Anatomy.of(model), BUDGETS[name], rank=2) if arm.key == key).attach(model)


def padded() -> dict[str, torch.Tensor]:
    ids = families.tokens(BATCH.rows, BATCH.length)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


# -- exact against a real model ------------------------------------------------------------------------------------------
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


# -- how the parts depend on each other ----------------------------------------------------------------------------------
def test_checkpointing_keeps_the_inputs_of_the_trained_layers_and_one_layer():
    rows = {}
    for checkpointing in (False, True):
        config = config_of("llama", layers=6)
        with on_meta(config, torch.float32) as model:
            anatomy = Anatomy.of(model)
            model = next(a for a in arms(anatomy, 9000) if a.key == "slice_top").attach(model)
            rows[checkpointing] = footprint(model, anatomy, BATCH, STORAGES["float32"], checkpointing).activations
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


# -- the choices that are compared ---------------------------------------------------------------------------------------
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


# -- everything, for every family and any size ---------------------------------------------------------------------------
def test_every_family_is_estimated_from_its_configuration(family, tmp_path):
    config_of(family).save_pretrained(tmp_path)
    found = estimate(str(tmp_path / "config.json"), "20%", rows=2, length=12, rank=2)
    assert found.parameters == Anatomy.of(families.make(family, layers=4)).num_parameters
    assert [row.key for row in found.rows] == list(KEYS)
    steps = {row.key: row.step for row in found.rows}
    peaks = {row.key: row.memory.peak for row in found.rows}
    assert steps["full"] == 1
    assert steps["slice_top"] < steps["slice"] < 1
    assert peaks["slice_top"] < peaks["slice"] < peaks["full"]
    assert [row.key for row in found.rows if row.cached_step] == ["slice_top", "freeze"]
    assert all(row.cached_step < row.step for row in found.rows if row.cached_step)
    data = found.to_dict()
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(data, allow_nan=False))
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in lines[3:9]] == [row.name for row in found.rows]


@pytest.mark.slow
def test_seventy_billion_parameters_take_no_memory(tmp_path):
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128256}
    sizes |= {"num_attention_heads": 64, "num_key_value_heads": 8}
    AutoConfig.for_model("llama", **sizes).save_pretrained(tmp_path)
    code = (
        "import resource, sys; from guided_ft.estimate.estimate import estimate;"
        "e = estimate(sys.argv[1], '1%', dtype='nf4', rows=1, length=4096, checkpointing=True); import json;"
        "print(json.dumps(e.to_dict() | {'rss': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rss"] < 2e9
    assert found["parameters"] == 70_553_706_496
    rows = {row["key"]: row for row in found["rows"]}
    assert rows["full"]["memory"] is None
    assert rows["full"]["note"] == "nf4 weights cannot be trained themselves"
    memory = rows["slice_top"]["memory"]
    assert 0.0099 < memory["trained"] / found["parameters"] <= 0.01
    # 68.5 billion weights in projections at 4.5 bits, the rest in bfloat16.
    assert memory["weights"] - 4 * memory["trained"] == pytest.approx(68.45e9 * 4.5 / 8 + 2.1e9 * 2, rel=1e-3)
    assert found["cache_bytes"] == 1000 * 4096 * 8192 * 2


def test_every_mixture_of_experts_is_estimated_from_its_configuration(moe_family, tmp_path):
    config_of(moe_family).save_pretrained(tmp_path)
    found = estimate(str(tmp_path), "20%", rows=2, length=12, rank=2)
    rows = {row.key: row for row in found.rows}
    assert list(rows) == list(KEYS)
    assert rows["lora_same"].memory is None
    assert rows["lora_same"].note.startswith("lora: L0.E0.N0 is made of experts, which are no linear layers")
    done = [row for row in found.rows if row.memory is not None]
    assert rows["full"].step == 1
    assert rows["slice_top"].step < rows["slice"].step < 1
    assert rows["slice_top"].memory.peak < rows["slice"].memory.peak < rows["full"].memory.peak
    assert [row.key for row in done if row.cached_step] == ["slice_top", "freeze"]


def test_activations_follow_the_experts_that_a_token_meets(tmp_path):
    """Eight experts of which two are used, or all eight: the same weights, and what a token keeps in six is the rest."""
    found = {}
    for active in (2, 8):
        settings = families.MOE["mixtral"] | {"num_local_experts": 8, "num_experts_per_tok": active}
        AutoConfig.for_model("mixtral", **settings).save_pretrained(tmp_path)
        found[active] = estimate(str(tmp_path), "40%", rows=2, length=12)
    full, slices = ({n: e.rows[i].memory for n, e in found.items()} for i in (0, 3))
    assert full[2].weights == full[8].weights
    # Of each of six more experts: its input and output, what its neurons say, their gate and up, and what gates them.
    numbers = 2 * families.HIDDEN + (1 + 2 + 1) * families.PER_EXPERT
    pairs = 2 * 12 * 6
    kept = (full[8].activations - full[2].activations) / families.LAYERS / pairs
    assert 4 * numbers <= kept <= 4 * numbers + 4 * 8 + 4 * 4
    assert slices[2].activations < slices[8].activations
    assert found[2].active < found[8].active == found[8].parameters
    assert " of them for a token) in float32" in str(found[2])
    assert "for a token" not in str(found[8])


@pytest.mark.parametrize(
    ("name", "settings", "parameters", "active"),
    [
        # Mixtral 8x7B and OLMoE 1B-7B, as their authors count them: 46.7 and 12.9, 6.9 and 1.3 billion.
        ("mixtral", {"vocab_size": 32000}, 46_702_792_704, 12.9e9),
        ("olmoe", {"intermediate_size": 1024, "num_experts": 64, "vocab_size": 50304}, 6_919_161_856, 1.3e9),
        # GPT-OSS 20B without its embedding: 3.6.
        ("gpt_oss", {"num_local_experts": 32, "num_hidden_layers": 24}, 20_914_757_184, 3.61e9 + 201088 * 2880),
    ],
)
def test_known_models_have_as_many_active_parameters_as_their_authors_say(name, settings, parameters, active):
    config = AutoConfig.for_model(name, **settings)
    with on_meta(config, torch.bfloat16) as model:
        anatomy = Anatomy.of(model)
    assert anatomy.num_parameters == parameters
    assert active_parameters(anatomy, config.num_experts_per_tok) == pytest.approx(active, rel=0.015)
    assert active_parameters(anatomy, 0) == parameters


def test_a_recipe_gives_the_defaults(tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    recipe = tmp_path / "my.yaml"
    recipe.write_text(
        f"model: {tmp_path}\ndtype: bfloat16\ndata: {{name: chain_sum}}\nselect: {{budget: 5%}}\n"
        "train: {batch_size: 3, max_length: 17, gradient_checkpointing: true}\n"
    )
    found = estimate(str(recipe))
    assert (found.dtype, found.batch, found.checkpointing) == ("bfloat16", Batch(3, 17), True)
    assert found.budget == int(0.05 * found.parameters)
    recipe.write_text(recipe.read_text() + "quantization: nf4\n")
    quantized = estimate(str(recipe))
    assert quantized.dtype == "nf4"
    assert quantized.rows[-2].memory == estimate(str(recipe), dtype="nf4").rows[-2].memory
    recipe.write_text(recipe.read_text().replace("bfloat16", "float32"))
    wider = estimate(str(recipe)).rows[-2].memory
    assert wider.activations > quantized.rows[-2].memory.activations
    # What is not in projections takes two bytes more.
    anatomy = Anatomy.of(families.make("llama", layers=4))
    projections = 4 * sum(a * b for a, b in anatomy.shapes.values())
    assert wider.weights - quantized.rows[-2].memory.weights == 2 * (anatomy.num_parameters - projections)
    changed = estimate(str(recipe), "1%", dtype="float32", rows=2, length=5)
    assert (changed.dtype, changed.batch, changed.budget) == ("float32", Batch(2, 5), int(0.01 * found.parameters))


# -- mistakes ------------------------------------------------------------------------------------------------------------
def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["estimate", *arguments])
    out, err = capsys.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1), err
    return err.rstrip("\n")


def test_mistakes_are_one_line_and_exit_code_2(capsys, tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    folder = str(tmp_path)
    lots = "budget: cannot read 'lots' (write '2%', 0.02 or a number of parameters)"
    assert refusal(capsys, folder, "--budget", "lots") == lots
    assert refusal(capsys, folder, "--budget", "200%").startswith("budget: '200%' is not above 0 and at most the whole")
    assert refusal(capsys, folder, "--budget", "99999999").startswith("budget: '99999999' is not above 0 and at most")
    assert refusal(capsys, folder, "--dtype", "nf5") == "dtype: unknown value 'nf5' (did you mean 'nf4'?)"
    assert refusal(capsys, folder, "--labelled", "0") == (
        "labelled: 0.0 is not a share above 0 and at most 1 (write 0.3)"
    )
    assert refusal(capsys, folder, "--batch", "0").startswith("guided-ft estimate: Invalid value for '--batch': ")
    lot = "is more than the 100,000,000 that can be worked out (lower it)"
    assert refusal(capsys, folder, "--length", f"{10**12}") == f"batch times length: 8,000,000,000,000 {lot}"
    assert refusal(capsys, folder, "--batch", f"{10**20}") == f"batch times length: {128 * 10**20:,} {lot}"
    assert refusal(capsys, folder, "--rank", f"{10**20}") == f"rank: {10**20:,} {lot}"
    assert refusal(capsys, "no/such/model").startswith("model: 'no/such/model' cannot be loaded (")
    assert refusal(capsys, "no.yaml") == "no.yaml: cannot be read: No such file or directory (check the path)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be loaded"),
        ("{}", "cannot be loaded"),
        ('{"model_type": "nonsense"}', "cannot be loaded"),
        ('{"model_type": "bert"}', "architecture 'bert' is unknown"),
        ('{"model_type": "t5"}', "makes no causal LM"),
        ('{"model_type": "llama", "hidden_size": -8}', "cannot be loaded"),
        ('{"model_type": "llama", "num_attention_heads": 0}', "cannot be loaded"),
        ('{"model_type": "llama", "intermediate_size": -8}', "makes no causal LM"),
        ('{"model_type": "llama", "num_key_value_heads": 5}', "makes a model that cannot run (The size of tensor a"),
        ('{"model_type": "llama", "num_hidden_layers": 0}', "a configuration without layers (num_hidden_layers is 0)"),
        ('{"model_type": "gpt2", "n_layer": -1}', "a configuration without layers (num_hidden_layers is -1)"),
    ],
)
def test_a_configuration_that_is_none_is_one_line_and_exit_code_2(capsys, tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    assert said in refusal(capsys, str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (99400, "99.4 kB"),
        (538060032, "538 MB"),
        (999600000, "1 GB"),
        (2313000000, "2.31 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_are_readable(size, text):
    assert readable(size) == text


def test_the_largest_step_is_worked_out(tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    for rows, length in ((1, LARGEST), (LARGEST, 1)):
        assert estimate(str(tmp_path), rows=rows, length=length, rank=LARGEST).rows[0].memory.peak > 0


def test_an_empty_choice_is_refused():
    with pytest.raises(GuidedError, match="buys no neuron"):
        spread(Anatomy.of(families.make("llama")), 95, range(2))


# -- against the memory of a real process --------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's memory figures")
@pytest.mark.parametrize("key", ["full", "lora", "slice", "slice_top"])
def test_the_real_model_takes_as_much_memory_as_said(key):
    if not (cache_folder() / SMOLLM2).is_dir() and __import__("importlib").util.find_spec(EMBEDDED[SMOLLM2][0]) is None:
        pytest.skip("the model is not installed")
    budget = 2_421_270
    row = next(row for row in estimate(SMOLLM2, budget, rows=8, length=32).rows if row.key == key)
    assert row.memory.peak == pytest.approx(taken(SMOLLM2, key, 8, 32, budget), rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's memory figures")
@pytest.mark.parametrize("key", ["full", "lora", "slice", "slice_top"])
def test_a_mixture_of_experts_takes_as_much_memory_as_said(key, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 8, "vocab_size": 8192}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 4}
    AutoConfig.for_model("olmoe", **sizes).save_pretrained(tmp_path)
    name = str(tmp_path / "config.json")
    row = next(row for row in estimate(name, 2_000_000, rows=8, length=128).rows if row.key == key)
    assert row.memory.peak == pytest.approx(taken(name, key, 8, 128, 2_000_000), rel=0.05)


def taken(name: str, key: str, rows: int, length: int, budget: int) -> int:
    """Bytes that a process of its own takes for a model and for training it, at most."""
    script = Path(__file__).parents[1] / "tools" / "memory_run.py"
    done = subprocess.run(
        [sys.executable, str(script), name, key, str(rows), str(length), str(budget)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(script.parent.parent)},
    )
    found = json.loads(re.findall(r"^{.*}$", done.stdout, re.M)[-1])
    return found["peak"] - found["base"]
