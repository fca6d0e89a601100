"""The Python blocks of the README and of the rooms' pages run as they stand, on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from datasets import Dataset
from families import make
from trl import SFTConfig, SFTTrainer

from guided_ft import Task
from guided_ft.scorers import catalogue
from guided_ft.task import measures, rewards

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "guided_ft").rglob("README.md")))]
PAGES.append((ROOT / "recipes" / "README.md").read_text())
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
LINKS = re.compile(r"\]\((?!https?:)([^)#]+)\)")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    monkeypatch.setattr(measures, "OWN", {})
    monkeypatch.chdir(tmp_path)
    make("llama").save_pretrained("tiny")
    tiny.tokenizer().save_pretrained("tiny")
    Path("tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.sums(16)))
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))
    args = SFTConfig(str(tmp_path), max_steps=2, use_cpu=True, bf16=False, report_to=[], save_strategy="no")
    names: dict[str, Any] = {
        "SFTTrainer": SFTTrainer,
        "model": make("llama"),
        "tokenizer": tiny.tokenizer(),
        "dataset": Dataset.from_list(tiny.sums(16)),
        "args": args,
        "task": Task.from_dataset(tiny.sums(16), tiny.tokenizer()),
        "held_out": Task.from_dataset(tiny.sums(24)[16:], tiny.tokenizer()),
    }
    code = BLOCKS[number]
    if number == 0:  # complete, as it is pasted; the others go on from it
        names = {}
        for real, here in (('"smollm2-135m-instruct"', '"tiny"'), ("max_steps=100", "max_steps=2, use_cpu=True")):
            assert real in code
            code = code.replace(real, here)
    # The budget suits a real model; the tiny one has no neuron that costs so little, and two layers.
    code = code.replace('"2%"', '"20%"').replace("first_layer=20", "first_layer=1")
    exec(compile(code, f"README block {number}", "exec"), names)  # noqa: S102
    assert Path("tuned/report/report.html").is_file() == (number == 0)
    if "trainer" in names:
        assert names["trainer"].state.global_step == 2
        certificates = [c.certificate for c in names["trainer"].callback_handler.callbacks if hasattr(c, "certificate")]
        assert len(certificates) == 1
        assert certificates[0].ok
    elif "curve" in names:
        assert set(names["maps"]) == {"attribution", "fisher", "wanda"}
        assert names["scores"].meta["verified"]
        assert names["curve"].cmd > 0
    elif "recipe" in names:
        assert names["recipe"].train.reward == "near_number+short"
    elif "measures" in names:
        assert measures.measured("queue_accuracy", ["a b", "c"], ["a", "d"]) == 50
    else:
        assert names["scores"].top("layer", 1)[0][0].layer == 1


def test_there_are_blocks_and_every_command_exists():
    from guided_ft.cli import app

    assert len(BLOCKS) == 7
    known = {c.name or c.callback.__name__ for c in app.registered_commands} | {"recipes"}
    for line in re.findall(r"guided-ft ([a-z]+(?: \| [a-z]+)*)", README):
        assert set(line.split(" | ")) <= known, line


def test_the_readme_is_short_and_no_page_points_to_nothing():
    assert len(README.splitlines()) <= 150
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("guided_ft/**/*.md"), *ROOT.glob("recipes/*.md")]
    found = [(page, link) for page in pages for link in LINKS.findall(page.read_text())]
    assert len(found) > 15
    assert [(page.name, link) for page, link in found if not (page.parent / link).exists()] == []
