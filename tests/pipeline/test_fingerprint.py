"""What is unchanged: every key of a recipe, and the content of every file that it names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make
from safetensors.torch import load_file, save_file
from tiny_run import adapter, cut, recipe

from guided_ft import Recipe, run
from guided_ft.pipeline import fingerprint
from guided_ft.pipeline.fingerprint import WITHOUT, file_hash, stage_keys
from guided_ft.plan.modes import MODES
from guided_ft.recipe.recipe import keys

ALL = tuple(WITHOUT)
MAP = ("localize", "select", "train", "evaluate", "control")
PLAN = MAP[1:]
TRAIN = PLAN[1:]
MEASURE = ("before", "evaluate", "control")

CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "data.subset": ("main", ALL),
    "data.fallback": ("sums", ALL),
    "train.epochs": (2, TRAIN),
    "train.arguments": ({"adam_beta1": 0.8}, TRAIN),
    "name": ("other", ()),
    "description": ("other words", ()),
    "output": ("elsewhere", ()),
    "model": ("other/model", ALL),
    "dtype": ("bfloat16", ALL),
    "quantization": ("nf4", ALL),
    "seed": (1, ALL),
    "control": ("none", ("control",)),
    "data.source": ("hub", ALL),
    "data.name": ("gcd", ALL),
    "data.path": ("rows.jsonl", ALL),
    "data.test_path": ("tests.jsonl", ALL),
    "data.format": ("alpaca", ALL),
    "data.columns": ({"prompt": "text"}, ALL),
    "data.prompt": ("{question}!", ALL),
    "data.split": ("validation", ALL),
    "data.options": ({"max_terms": 3}, ALL),
    "data.contains": (" + ", ALL),
    "data.preference": (True, ALL),
    "data.train": (10, ALL),
    "data.test": (10, ALL),
    "localize.method": ("gradient", MAP),
    "localize.retain": ("none", MAP),
    "localize.examples": (16, MAP),
    "localize.batch_size": (4, MAP),
    "localize.options": ({"replace": "mean"}, MAP),
    "select.budget": ("2%", PLAN),
    "select.kinds": (["head"], PLAN),
    "select.strategy": ("random", PLAN),
    "select.first_layer": (1, PLAN),
    # With the trainer, what rows must look like and what the loss is.
    "train.trainer": ("dpo", ALL),
    "train.mode": ("lora", PLAN),
    "train.rank": (4, PLAN),
    "train.mode_options": ({"speed": 2}, PLAN),
    "train.lr_scale": (2.0, PLAN),
    "train.max_length": (64, ALL),
    "train.beta": (0.2, ALL),
    "train.learning_rate": (0.1, TRAIN),
    "train.steps": (7, TRAIN),
    "train.batch_size": (4, TRAIN),
    "train.accumulate": (2, TRAIN),
    "train.lr_scheduler": ("cosine", TRAIN),
    "train.warmup_steps": (1, TRAIN),
    "train.weight_decay": (0.1, TRAIN),
    "train.max_grad_norm": (2.0, TRAIN),
    "train.save_steps": (7, TRAIN),
    "train.gradient_checkpointing": (True, TRAIN),
    "train.prefix_cache": ("none", TRAIN),
    "train.reward": ("number", TRAIN),
    "evaluate.max_new_tokens": (5, MEASURE),
    "evaluate.batch_size": (5, MEASURE),
    "evaluate.metric": ("loss", MEASURE),
    "evaluate.lm_eval": ("piqa", MEASURE),
    "evaluate.lm_eval_limit": (5, MEASURE),
    "evaluate.retention": ("none", MEASURE),
    "evaluate.retention_examples": (5, MEASURE),
    "evaluate.retention_tokens": (5, MEASURE),
}
"""Another value of every key, and the stages that do not stand when it changes."""


def changed(path: str, value: Any, base: Recipe) -> Recipe:
    """The recipe with one value changed, whether or not it fits the others."""
    section, _, key = path.rpartition(".")
    if not section:
        return base.model_copy(update={key: value})
    return base.model_copy(update={section: getattr(base, section).model_copy(update={key: value})})


def stale(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    return tuple(stage for stage in before if before[stage] != after[stage])


def test_every_key_has_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "make_mode", lambda name, rank, options: MODES[name]())
    assert set(CHANGES) == set(keys()), "a new key: say which stages it concerns (here and in fingerprint.WITHOUT)"
    base = Recipe(data={"name": "chain_sum"}, train={"mode": "slice"})
    before = stage_keys(base)
    assert stage_keys(Recipe(data={"name": "chain_sum"}, train={"mode": "slice"})) == before
    found = {path: stale(before, stage_keys(changed(path, value, base))) for path, (value, _) in CHANGES.items()}
    assert found == {path: stages for path, (_, stages) in CHANGES.items()}


def test_what_is_excepted_exists() -> None:
    paths = set(keys())
    sections = {path.split(".")[0] for path in paths}
    assert {name for without in WITHOUT.values() for name in without} <= paths | sections


def test_exact_ablation_scores_the_kinds_that_may_be_chosen() -> None:
    heads, neurons = (
        stage_keys(
            Recipe(
                data={"name": "x"},
                localize={"method": "ablation"},
                select={"kinds": [kind]},
                train={"mode": "slice"},
            )
        )
        for kind in ("head", "neuron")
    )
    assert stale(heads, neurons) == MAP


def test_a_mode_may_ask_another_question() -> None:
    def keys_of(mode: str, **options: Any) -> dict[str, str]:
        return stage_keys(Recipe(data={"name": "x"}, train={"mode": mode, "mode_options": options}))

    assert stale(keys_of("slice"), keys_of("freeze")) == PLAN
    assert stale(keys_of("slice"), keys_of("subspace")) == MAP
    assert stale(keys_of("subspace"), keys_of("subspace", max_rank=8)) == MAP
    assert stale(keys_of("subspace"), keys_of("subspace", keep=False)) == PLAN


@pytest.mark.parametrize(
    ("budget", "max_rank", "changed"),
    [("1%", None, PLAN), (0.02, None, PLAN), ("20%", None, MAP), (4_000_000, None, MAP), ("20%", 8, PLAN)],
)
def test_a_map_of_directions_is_made_anew_for_a_budget_that_it_may_not_be_enough_for(budget, max_rank, changed) -> None:
    train = {"mode_options": {} if max_rank is None else {"max_rank": max_rank}}
    before, after = (
        stage_keys(Recipe(data={"name": "x"}, select={"budget": each}, train=train)) for each in ("10%", budget)
    )
    assert stale(before, after) == changed


def test_the_content_of_whatever_is_named_counts(tmp_path: Path) -> None:
    names = ("rows", "tests", "held", "one", "two")
    paths = {name: tmp_path / f"{name}.jsonl" for name in names}
    for path in paths.values():
        path.write_text('{"text": "a"}\n')
    model = tmp_path / "model"
    make("llama").save_pretrained(model)
    asked = Recipe(
        model=str(model),
        data={"source": "file", "path": str(paths["rows"]), "test_path": str(paths["tests"])},
        localize={"method": "specificity", "retain": f"{paths['one']}, {paths['two']}"},
        train={"mode": "slice"},
        evaluate={"retention": str(paths["held"])},
    )
    before = stage_keys(asked)
    expected = {"rows": ALL, "tests": ALL, "held": MEASURE, "one": MAP, "two": MAP}
    for name, stages in expected.items():
        in_place(paths[name], paths[name].read_bytes().replace(b"a", b"b"))
        after = stage_keys(asked)
        assert stale(before, after) == stages, name
        before = after
    weights = model / "model.safetensors"
    in_place(weights, weights.read_bytes()[:-1] + b"\x7f")
    assert stale(before, stage_keys(asked)) == ALL
    before = stage_keys(asked)
    (model / "README.md").write_text("more words")
    assert stage_keys(asked) == before


def test_all_that_lies_in_the_folder_of_a_data_set_counts_and_of_a_models_what_is_loaded(tmp_path: Path) -> None:
    rows, model = tmp_path / "set" / "data" / "train.jsonl", tmp_path / "model"
    for folder in (rows.parent, model / "checkpoint-2", tmp_path / "set" / ".cache"):
        folder.mkdir(parents=True)
    rows.write_text('{"text": "a"}\n')
    (tmp_path / "set" / "README.md").write_text("data_files: a")
    asked = Recipe(model=str(model), data={"source": "hub", "name": str(tmp_path / "set")}, train={"mode": "slice"})
    before = stage_keys(asked)
    (model / "checkpoint-2" / "model.safetensors").touch()
    (tmp_path / "set" / ".cache" / "downloaded").touch()
    assert stage_keys(asked) == before
    for path in (rows, tmp_path / "set" / "README.md"):
        in_place(path, path.read_bytes().replace(b"a", b"b"))
        after = stage_keys(asked)
        assert stale(before, after) == ALL, path
        before = after


def in_place(path: Path, content: bytes) -> None:
    """Write other content of the same size into a file, with the times that it had."""
    stat = path.stat()
    assert len(content) == stat.st_size
    with open(path, "r+b") as file:
        assert file.read() != content
        file.seek(0)
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_hash_of_a_large_file_is_remembered_until_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "LARGE", 4)
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    hashed: list[Path] = []
    real = fingerprint.sha256
    monkeypatch.setattr(fingerprint, "sha256", lambda p: (hashed.append(p), real(p))[1])
    fresh = file_hash(path)
    assert file_hash(path) == fresh
    assert len(hashed) == 2, "a file of this moment is not remembered: its next change may not show in its times"
    now = fingerprint.time.time()
    monkeypatch.setattr(fingerprint.time, "time", lambda: now + 60)
    assert [file_hash(path) for _ in range(3)] == [fresh] * 3
    assert len(hashed) == 3
    in_place(path, b"other")
    assert file_hash(path) == real(path) != fresh


# -- faults that were: nothing old in what is new --------------------------------------------------------------------------
def corrected(asked: Recipe) -> None:
    """Give each row another answer of the same length, in place."""
    path = Path(str(asked.data.path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["completion"] = " " + row["completion"].strip()[::-1].replace("4", "7").replace("8", "3")
    in_place(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def trained(asked: Recipe) -> dict[str, Any]:
    return run(asked, until="train", quiet=True)["train"]


@pytest.mark.slow
def test_corrected_rows_are_trained_on_from_the_first_step(tmp_path: Path) -> None:
    finished, halted = (recipe(tmp_path, name, control="none", evaluate={"retention": "none"}) for name in ("a", "b"))
    trained(finished)
    cut(halted)
    assert (tmp_path / "b" / "train" / "checkpoint-6").is_dir()
    corrected(finished)
    results = [
        trained(asked) for asked in (finished, halted, finished.model_copy(update={"output": str(tmp_path / "c")}))
    ]
    assert [result["resumed_from"] for result in results] == [None, None, None]
    assert adapter(tmp_path / "a") == adapter(tmp_path / "b") == adapter(tmp_path / "c")


@pytest.mark.slow
def test_another_base_in_the_same_folder_is_trained_afresh(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "a", control="none", evaluate={"retention": "none"})
    trained(asked)
    weights = Path(asked.model) / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "up_proj" in name)
    save_file(tensors | {name: torch.flip(tensors[name], (0,))}, tmp_path / "other", {"format": "pt"})
    in_place(weights, (tmp_path / "other").read_bytes())
    assert trained(asked)["resumed_from"] is None
    trained(asked.model_copy(update={"output": str(tmp_path / "c")}))
    assert adapter(tmp_path / "a") == adapter(tmp_path / "c")
