"""``guided-ft sft`` and ``dpo`` on a YAML file of TRL's: what is trained, and every mistake in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from families import make
from peft import PeftModel

from guided_ft.cli import main
from guided_ft.recipe.trl_config import TrlConfig

USUAL = """\
model_name_or_path: {base}
dataset_name: {data}
output_dir: {out}
max_steps: 2
per_device_train_batch_size: 2
learning_rate: 1e-3
lr_scheduler_type: cosine
use_cpu: true
bf16: false
report_to: none
save_strategy: "no"
disable_tqdm: true
guided:
  budget: 20%
"""


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make("llama").save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    for name, rows in (("sums", tiny.sums(16)), ("pairs", tiny.pairs(16))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {"base": tmp_path / "base", "data": tmp_path / "sums.jsonl", "out": tmp_path / "out"}
    (tmp_path / "trl.yaml").write_text(USUAL.format(**places))
    return tmp_path / "trl.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "data"), [("sft", "sums.jsonl"), ("dpo", "pairs.jsonl")])
def test_it_trains_what_the_block_chooses(capsys, config: Path, trainer: str, data: str) -> None:
    changes = [f"dataset_name={config.parent / data}", "guided.mode=lora", "guided.rank=2", "seed=3"]
    code, out, _ = call(capsys, trainer, "--config", str(config), *changes)
    assert code == 0
    assert out.splitlines()[-1] == f"21 of 21 frozen tensors bit-identical; saved in {config.parent / 'out'}"
    model = PeftModel.from_pretrained(make("llama"), config.parent / "out", is_trainable=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(p.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)


@pytest.mark.slow
def test_a_data_folder_is_read_and_trls_own_arguments_are_kept(capsys, config: Path) -> None:
    (config.parent / "data").mkdir()
    (config.parent / "sums.jsonl").rename(config.parent / "data" / "train.jsonl")
    changes = [f"dataset_name={config.parent / 'data'}", "save_strategy=steps", "save_steps=1", "guided.retain=none"]
    code, _, err = call(capsys, "sft", "--config", str(config), *changes)
    assert code == 0, err
    state = json.loads((config.parent / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert [round(entry["learning_rate"], 5) for entry in state["log_history"] if "learning_rate" in entry] == []
    assert state["max_steps"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_stepz: 5", "max_stepz: unknown key (did you mean 'max_steps'?)"),
        ("model: tiny", "model: unknown key (one of: "),
        ("trainer: sft", "trainer: unknown key"),
        ("guided: {budgt: 1%}", "guided.budgt: unknown key (did you mean 'budget'?)"),
        ("guided: {method: attributon}", "guided.method: unknown value 'attributon' (did you mean 'attribution'?)"),
        ("guided: 3", "guided: expected keys below it, got 3"),
        ("max_steps: many", "max_steps: expected int, got 'many'"),
        ("dtype: float64", "dtype: unknown value 'float64'"),
        (
            "use_peft: true",
            "use_peft: guided trains what it chooses (remove it, and write guided: {mode: lora, rank: 8})",
        ),
        ("lora_r: 8", "lora_r: guided trains what it chooses"),
        ("trust_remote_code: true", "trust_remote_code: a file cannot ask for that (give --trust-remote-code"),
        ("dataset_streaming: true", "dataset_streaming: this key of TRL's is not read here"),
        ("datasets: [{path: a}]", "datasets: a mixture is not read (write dataset_name)"),
        ("beta: 0.1", "beta: unknown key"),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "trl.yaml").write_text(f"dataset_name: a/b\n{text}\n")
    code, _, err = call(capsys, "sft", "--config", str(tmp_path / "trl.yaml"))
    assert code == 2
    assert err.startswith(f"trl.yaml: {said}")
    assert err.count("\n") == 1


def test_what_each_trainer_takes_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "trl.yaml").write_text("dataset_name: a/b\nbeta: 0.3\nguided: {budget: 1%, kinds: [head]}\n")
    config = TrlConfig.load(tmp_path / "trl.yaml", "dpo", ["learning_rate=5e-5", "load_in_4bit=true"])
    assert config.arguments == {"beta": 0.3, "learning_rate": 5e-5}
    assert (config.guided.budget, config.guided.kinds, config.quantization) == ("1%", ("head",), "nf4")


def test_what_is_missing_is_named(capsys, tmp_path: Path) -> None:
    (tmp_path / "trl.yaml").write_text("max_steps: 5\n")
    said = "trl.yaml: dataset_name: missing (write a hub id, a folder or a file)\n"
    assert call(capsys, "sft", "--config", str(tmp_path / "trl.yaml"))[::2] == (2, said)
    said = "nothing.yaml: cannot be read: No such file or directory (check the path)\n"
    assert call(capsys, "sft", "--config", str(tmp_path / "nothing.yaml"))[::2] == (2, said)


@pytest.mark.slow
def test_what_trl_refuses_and_data_that_is_not_there_are_one_line(capsys, config: Path) -> None:
    said = call(capsys, "sft", "--config", str(config), "bf16=true", "fp16=true")
    assert said[0] == 2
    assert said[2].startswith("train: SFTConfig refuses it (")
    said = call(capsys, "sft", "--config", str(config), f"dataset_name={config.parent / 'nowhere'}")
    assert said[0] == 2
    assert said[2].startswith("dataset_name: ")
    assert said[2].count("\n") == 1


def test_a_file_is_checked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "trl.yaml").write_text("dataset_name: a/b\n")
    code = f"import sys; from guided_ft.recipe.trl_config import TrlConfig; TrlConfig.load({str(tmp_path / 'trl.yaml')!r}, 'sft'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
