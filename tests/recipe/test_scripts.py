"""The drop-in scripts run as they are, on a tiny model; only the budget is one that a tiny model can spend."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import tiny
from families import make
from peft import PeftModel

SCRIPTS = sorted((Path(__file__).parents[2] / "recipes" / "scripts").glob("*.py"))


def test_there_are_three_and_each_has_its_one_line() -> None:
    assert [path.stem for path in SCRIPTS] == ["dpo", "sft", "trainer"]
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert [line.strip().split("GuidedCallback(")[0] for line in lines if "the one line" in line] == ["callbacks=["]
        assert len(lines) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_trains_two_steps_and_saves_an_adapter(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, data, out = tmp_path / "base", tmp_path / "data", tmp_path / "out"
    make("llama").save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    data.mkdir()
    rows = tiny.pairs(16) if path.stem == "dpo" else tiny.sums(16)
    if path.stem == "trainer":
        (data / "train.txt").write_text("\n\n".join(row["prompt"] + row["completion"] for row in rows))
        own = ["--model", str(base), "--file", str(data / "train.txt")]
    else:
        (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own = ["--model_name_or_path", str(base), "--dataset_name", str(data)]
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace('budget="2%"', 'budget="20%"'))
    usual = ["--output_dir", str(out), "--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "true"]
    more = ["--bf16", "false", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true"]
    monkeypatch.setattr(sys, "argv", [str(copy), *own, *usual, *more])
    runpy.run_path(str(copy), run_name="__main__")
    model = PeftModel.from_pretrained(make("llama"), out, is_trainable=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in make("llama").parameters())
    assert 0 < trained <= total // 5
    assert any(p.abs().max() > 0 for p in model.parameters() if p.requires_grad), "two steps have moved something"
