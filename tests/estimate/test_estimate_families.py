"""Every family is estimated from its configuration, whatever its size."""

from __future__ import annotations

import json
import subprocess
import sys

import families
import pytest
import torch
from estimates import KEYS, config_of
from transformers import AutoConfig

from guided_ft.anatomy import Anatomy
from guided_ft.estimate.estimate import estimate
from guided_ft.estimate.flops import Batch, active_parameters
from guided_ft.estimate.footprint import on_meta


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
    assert [line.split("  ")[0] for line in lines[3:10]] == [row.name for row in found.rows]


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


def top_slices(found):
    return next(row for row in found.rows if row.key == "slice_top").memory


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
    memory = top_slices(quantized)
    assert memory == top_slices(estimate(str(recipe), dtype="nf4"))
    recipe.write_text(recipe.read_text().replace("bfloat16", "float32"))
    wider = top_slices(estimate(str(recipe)))
    assert wider.activations > memory.activations
    # What is not in projections takes two bytes more.
    anatomy = Anatomy.of(families.make("llama", layers=4))
    projections = 4 * sum(a * b for a, b in anatomy.shapes.values())
    assert wider.weights - memory.weights == 2 * (anatomy.num_parameters - projections)
    changed = estimate(str(recipe), "1%", dtype="float32", rows=2, length=5)
    assert (changed.dtype, changed.batch, changed.budget) == ("float32", Batch(2, 5), int(0.01 * found.parameters))


def test_a_step_of_dpo_has_the_rows_that_its_trainer_makes_of_the_pairs(tmp_path):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    config_of("llama").save_pretrained(tmp_path)
    pair = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}
    rows = len(DataCollatorForPreference(pad_token_id=0)([pair] * 3)["input_ids"])
    recipe = tmp_path / "my.yaml"
    data = "{name: chain_sum, preference: true}"
    recipe.write_text(f"model: {tmp_path}\ndata: {data}\ntrain: {{trainer: dpo, batch_size: 3, max_length: 16}}\n")
    found = estimate(str(recipe))
    assert found.batch == Batch(rows, 16)
    recipe.write_text(recipe.read_text().replace("preference: true", "").replace("trainer: dpo, ", ""))
    plain = estimate(str(recipe))
    assert top_slices(found).activations == pytest.approx(2 * top_slices(plain).activations, rel=0.01)
    assert found.cache_bytes == 2 * plain.cache_bytes
    assert "steps of 3 pairs, 6 x 16 tokens" in str(found)
    assert "steps of 3 x 16 tokens" in str(plain)
    assert ["reference" in str(each) for each in (found, plain)] == [True, False]
