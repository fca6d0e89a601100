"""A new user's first hour, as they type it: own rows, the pasted script, a talk with the result, and taking it elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from families import make
from own_rows import ROWS, TEMPLATE

from guided_ft.cli import main
from guided_ft.system.places import EMBEDDED, locate

README = (Path(__file__).parents[2] / "README.md").read_text()
NAME = "smollm2-135m-instruct"
QUICK = ("steps=2", "control=none", "localize.examples=4", "retention_examples=2", "retention_tokens=8", "save_steps=9")

pytestmark = pytest.mark.slow


def python(*arguments: str, given: str = "", cwd: Path) -> str:
    """What a fresh process prints. Our own commands warn of nothing that their user did not do."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, *arguments],
        **{"input": given, "capture_output": True, "text": True, "timeout": 300, "cwd": cwd, "env": environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert arguments[0] == "-c" or "Warning" not in done.stderr, done.stderr
    return done.stdout


def recorded(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a file of tickets lies, and a tiny model for what the real one is too slow for."""
    folder = tmp_path_factory.mktemp("home")
    rows = [{"prompt": f"Ticket {i}: no {what} since noon.\nQueue:", "completion": f" {what}, level {i % 2}"}
            for i, what in enumerate(["network", "billing", "screen", "account"] * 6)]  # fmt: skip
    (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make("llama").save_pretrained(folder / "tiny")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "tiny")
    return folder


def test_own_rows_on_the_embedded_model_are_learned_talked_to_and_leave_as_a_lora(home):
    if importlib.util.find_spec(EMBEDDED[NAME][0]) is None:
        pytest.skip("the embedded model is not installed")
    told = python("-m", "guided_ft", "run", "tickets.jsonl", *QUICK, cwd=home)
    record = recorded(home / "runs" / "tickets")
    assert (record["name"], record["task"]["name"], record["model"]) == ("tickets", "tickets", NAME)
    assert (record["task"]["train"], record["task"]["test"]) == (20, 4)
    assert {check["ok"] for check in record["checks"]} == {True}
    assert "sums" not in told
    adapter = json.loads((home / "runs" / "tickets" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == NAME, "as it was named, and not where it lies on this machine"
    assert f'guided_ft.load_model("{NAME}")' in told
    assert "report: runs/tickets/report.html" in told
    said = python("-m", "guided_ft", "chat", "runs/tickets", "--max-new-tokens", "4", given="Ticket: no\n", cwd=home)
    assert said.strip()
    python("-m", "guided_ft", "export", "runs/tickets", "--lora", cwd=home)
    stock = f"""
import sys
sys.modules["guided_ft"] = None
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({locate(NAME)!r}), "runs/tickets/export/lora")
tokenizer = AutoTokenizer.from_pretrained("runs/tickets/export/lora")
asked = tokenizer("Ticket: no", return_tensors="pt")
out = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked["input_ids"].shape[1]:]
print(tokenizer.decode(out, skip_special_tokens=True).strip())
"""
    assert python("-c", stock, cwd=home).strip() == said.strip()


def test_the_pasted_script_runs(home):
    [script] = re.findall(r"with rows that answer\):\n\n```python\n(.*?)```", README, re.DOTALL)
    for real, here in ((f'"{NAME}"', '"tiny"'), ("max_steps=100", "max_steps=2")):
        assert real in script
        script = script.replace(real, here)
    told = python("-c", script, cwd=home)
    assert re.search(r"^(\d+) of \1 frozen tensors bit-identical$", told, re.MULTILINE)
    assert {"adapter_config.json", "README.md", "report"} <= {path.name for path in (home / "tuned").iterdir()}


@pytest.mark.parametrize("form", ROWS)
def test_each_format_runs_from_a_file_to_a_report(form, home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    name = form.replace(", ", "-")
    Path(f"{name}.jsonl").write_text("".join(json.dumps(ROWS[form](i)) + "\n" for i in range(20)))
    with pytest.raises(SystemExit) as left:
        main(["run", f"{name}.jsonl", "model=tiny", "budget=15%", *QUICK])
    out, err = capsys.readouterr()
    assert (left.value.code, err) == (0, "")
    assert f"report: runs/{name}/report.html" in out
    record = recorded(Path("runs") / name)
    assert record["task"]["name"] == name
    assert {check["ok"] for check in record["checks"]} == {True}
