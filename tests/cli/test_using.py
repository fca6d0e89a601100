"""The commands that use a trained model ask for what was typed, and refuse what cannot be before anything is loaded."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from guided_ft.cli import main
from guided_ft.recipe.recipe import shipped
from guided_ft.scorers.catalogue import CATALOGUE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_bytes(shipped()["quickstart"].read_bytes())
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "completion": " 2"}\n')
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return (left.value.code, *capsys.readouterr())


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    made = types.ModuleType(f"guided_ft.use.{module}")
    for name, function in functions.items():
        setattr(made, name, function)
    monkeypatch.setitem(sys.modules, made.__name__, made)


@pytest.mark.parametrize(
    ("form", "talks", "options"),
    [
        (None, False, {}),
        ("messages", True, {}),
        ("messages", False, {"--plain": None}),
        ("text", True, {"--template": None}),
        ("text", True, {"--system": "Be brief."}),
    ],
)
def test_lines_of_a_pipe_are_answered_as_the_model_was_trained(capsys, monkeypatch, here, form, talks, options) -> None:
    asked: dict[str, Any] = {}

    def chat(run: Any, lines: Any, write: Any, **more: Any) -> None:
        asked.update(more, run=str(run.folder), lines=list(lines))
        write("So ")
        write("be it.\n")

    stand_in(monkeypatch, "chat", chat=chat)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    if form:
        (here / "run" / "run.json").write_text(json.dumps({"kind": "run", "version": 1, "task": {"form": form}}))
    flags = [part for name, value in options.items() for part in (name, value) if part is not None]
    assert call(capsys, "chat", "run", "--base", "--max-new-tokens", "7", *flags) == (0, "So be it.\n", "")
    assert asked == {
        "run": "run",
        "lines": ["one\n", "two\n"],
        "base": True,
        "template": talks,
        "system": options.get("--system"),
        "max_new_tokens": 7,
        "temperature": 0.0,
    }


def test_a_terminal_is_told_how_it_goes_and_asked_line_by_line(capsys, monkeypatch, here) -> None:
    typed = iter(["hello", KeyboardInterrupt()])

    def give(prompt: str) -> str:
        found = next(typed)
        if isinstance(found, str):
            return found
        raise found

    lines: list[str] = []
    stand_in(monkeypatch, "chat", chat=lambda run, given, write, **more: lines.extend(given))
    monkeypatch.setattr("builtins.input", give)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    code, _, err = call(capsys, "chat", "run")
    assert code == 0
    assert lines == ["hello"]
    assert err == ("quickstart, smollm2-135m-instruct: a prompt in each line (--template talks); Control-D ends it\n")


def test_answers_are_printed_or_written(capsys, monkeypatch, here) -> None:
    def generate(run: Any, questions: Any, **options: Any) -> Any:
        assert options == {"base": True, "max_new_tokens": 256, "batch_size": 4}
        return [{**q.row, "trained_answer": "zwölf"} for q in questions], {"trained_answer": 50.0, "base_answer": 0.0}

    stand_in(monkeypatch, "generate", generate=generate)
    arguments = ("generate", "run", "rows.jsonl", "--base", "--batch-size", "4")
    told = "trained answers that match exactly: 50 % of 1\nbase answers that match exactly: 0 % of 1\n"
    line = '{"prompt": "1+1=", "completion": " 2", "trained_answer": "zwölf"}\n'
    assert call(capsys, *arguments) == (0, line, told)
    assert call(capsys, *arguments, "--out", "a.jsonl") == (0, "wrote a.jsonl: 1 rows\n", told)
    assert (here / "a.jsonl").read_text() == line


@pytest.mark.parametrize(
    ("flags", "form"), [([], "merged"), (["--lora"], "lora"), (["--gguf", "--out", "x.gguf"], "gguf")]
)
def test_a_form_to_export(capsys, monkeypatch, here, flags, form) -> None:
    asked: list[tuple] = []
    stand_in(monkeypatch, "leave", export=lambda run, *rest: asked.append(rest) or Path("there"))
    assert call(capsys, "export", "run", *flags) == (0, "wrote there\n", "")
    assert asked == [(form, Path("x.gguf") if "--out" in flags else None)]


@pytest.mark.parametrize(("flags", "form", "private"), [([], None, None), (["--merged", "--private"], "merged", True)])
def test_a_push(capsys, monkeypatch, here, flags, form, private) -> None:
    asked: list[tuple] = []
    stand_in(monkeypatch, "leave", push=lambda run, *rest, **more: asked.append((*rest, more)) or "https://commit")
    assert call(capsys, "push", "run", "me/sums", *flags) == (0, "https://commit\n", "")
    assert asked == [("me/sums", form, {"private": private})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("chat nope", "nope: no recipe.yaml in it (give the folder of a run, such as runs/quickstart)"),
        ("export other", "other: its training is not done (run: guided-ft train other/recipe.yaml)"),
        ("export run --lora --gguf", "--lora and --gguf: write one form at a time"),
        ("generate run no.jsonl", "no.jsonl: cannot be read"),
        ("generate run rows.xyz", "rows.xyz: file ending: unknown value '.xyz'"),
        ("methods atribution", "method: unknown value 'atribution' (did you mean 'attribution'?)"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_heavy_is_imported(here, arguments: str, message: str) -> None:
    (here / "other").mkdir()
    (here / "other" / "recipe.yaml").touch()
    code = (
        "import sys, atexit; heavy = {'torch', 'transformers', 'peft', 'trl'};"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))));"
        "import guided_ft.__main__ as m; m.main()"
    )
    run = [sys.executable, "-c", code, *arguments.split()]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "heavy: []\n"), done.stderr
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_methods_say_what_they_cost_and_are_for(capsys) -> None:
    code, out, err = call(capsys, "methods")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 2 * len(CATALOGUE)
    assert [line.split()[0] for line in lines[::2]] == list(CATALOGUE)
    assert all(line.lstrip().startswith("-> ") for line in lines[1::2])
    assert call(capsys, "methods", "eap")[1].startswith("eap  LH-  1 F+B (of pairs: 2)  the circuit of")


def test_show_of_a_map_of_directions(capsys, here) -> None:
    from drawn import drawn
    from families import make

    from guided_ft import Anatomy
    from guided_ft.plan.modes.located import Located

    found = drawn(Anatomy.of(make("llama")))
    Located(found).save(here / "run" / "scores.safetensors")
    code, out, _ = call(capsys, "show", "run")
    assert (code, out) == (0, f"{found}\nnot finished: guided-ft run run/recipe.yaml\n")
    assert "layer   " in out


def test_show_of_a_run_that_only_localized(capsys, here) -> None:
    from families import make

    from guided_ft import Anatomy, Plan, ScoreMap, Selection

    anatomy = Anatomy.of(make("llama"))
    folder = here / "run"
    (folder / "recipe.yaml").write_bytes(shipped()["sums"].read_bytes())
    scores = ScoreMap(anatomy, layer=[1, 4], meta={"method": "attribution"})
    scores.save(folder / "scores.safetensors")
    code, out, _ = call(capsys, "show", "run")
    assert (code, out) == (0, f"{scores}\nnot finished: guided-ft run run/recipe.yaml\n")
    plan = Plan(Selection.parse("L1.N3", anatomy))
    plan.save(folder / "plan.json")
    assert call(capsys, "show", "run")[1] == f"{scores}\n{plan}\nnot finished: guided-ft run run/recipe.yaml\n"
    folder.rename(here / "my run")
    assert call(capsys, "show", "my run")[1].endswith("\nnot finished: guided-ft run 'my run/recipe.yaml'\n")
