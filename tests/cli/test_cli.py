"""The command line: right exit codes, one line per mistake, nothing heavy before the recipe is right."""

from __future__ import annotations

import json
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from reports import RUN

from guided_ft import __version__
from guided_ft.cli import app, main
from guided_ft.errors import GuidedError
from guided_ft.recipe.recipe import Recipe, shipped

REPOSITORY = Path(__file__).parents[2]
USES = ("chat", "generate", "export", "push")
STAGES = {"run": None, "localize": "localize", "select": "select", "train": "train", "evaluate": "evaluate"}


class Pipeline(types.ModuleType):
    """Stands in for guided_ft.pipeline.pipeline: remembers what it was asked, or fails as told."""

    def __init__(self) -> None:
        super().__init__("guided_ft.pipeline.pipeline")
        self.calls: list[tuple[Recipe, dict[str, Any]]] = []
        self.failure: BaseException | None = None

    def run(self, recipe: Recipe, **options: Any) -> dict[str, Any]:
        self.calls.append((recipe, options))
        if self.failure is not None:
            raise self.failure
        return {}


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setitem(sys.modules, "guided_ft.pipeline.pipeline", fake)
    return fake


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """Stands in for guided_ft.pipeline.compare.compare; what it was asked."""
    asked: list[tuple[tuple, dict[str, Any]]] = []
    fake = types.ModuleType("guided_ft.pipeline.compare.compare")
    fake.compare = lambda *words, **options: asked.append((words, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "guided_ft.pipeline.compare.compare", fake)
    return asked


@pytest.fixture
def drop_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for guided_ft.pipeline.drop_in."""
    fake = types.ModuleType("guided_ft.pipeline.drop_in")
    fake.train = lambda config, trust: (types.SimpleNamespace(certificate="all"), "out")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "guided_ft.pipeline.drop_in", fake)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_ft.report.write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr("guided_ft.report.story", lambda run: f"the story of {run.name}")


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """Stands in for guided_ft.estimate.estimate; what it was asked."""
    asked: list[tuple[tuple, dict[str, Any]]] = []

    class Table(str):
        def to_dict(self) -> dict[str, Any]:
            return {"table": str(self)}

    def estimate(*target: Any, **options: Any) -> Table:
        asked.append((target, options))
        return Table("the table")

    fake = types.ModuleType("guided_ft.estimate.estimate")
    fake.estimate = estimate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "guided_ft.estimate.estimate", fake)
    return asked


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """Stands in for what uses a trained model; what it was asked."""
    asked: list[tuple[tuple, dict[str, Any]]] = []

    def fake(module: str, name: str, answer: Any) -> None:
        def function(run: Any, *rest: Any, **options: Any) -> Any:
            asked.append(((name, str(run.folder), *rest), options))
            return answer

        made = types.ModuleType(f"guided_ft.use.{module}")
        setattr(made, name, function)
        monkeypatch.setitem(sys.modules, made.__name__, made)

    fake("chat", "chat", None)
    fake("generate", "generate", ([{"prompt": "1+1=", "trained_answer": "2"}], {}))
    leave = types.ModuleType("guided_ft.use.leave")
    for name in ("export", "push"):
        fake("leave", name, f"{name}ed")
        setattr(leave, name, getattr(sys.modules["guided_ft.use.leave"], name))
    monkeypatch.setitem(sys.modules, "guided_ft.use.leave", leave)
    return asked


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with one finished run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart" / "adapter").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "recipe.yaml").write_bytes(shipped()["quickstart"].read_bytes())
    (tmp_path / "runs" / "quickstart" / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``guided-ft arguments``."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


# -- commands ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_command_runs_the_pipeline_up_to_that_stage(capsys, pipeline, stage: str) -> None:
    assert call(capsys, stage, "quickstart", "budget=1%", "train.steps=5") == (0, "", "")
    [(recipe, options)] = pipeline.calls
    assert recipe == Recipe.load("quickstart", ["budget=1%", "steps=5"])
    assert options == {"until": STAGES[stage], "trust_remote_code": False, "quiet": False}


def test_flags_may_stand_anywhere(capsys, pipeline) -> None:
    assert call(capsys, "run", "--quiet", "quickstart", "steps=5", "--trust-remote-code")[0] == 0
    assert pipeline.calls[0][1] == {"until": None, "trust_remote_code": True, "quiet": True}


def test_compare_hands_over_what_was_asked(capsys, compared) -> None:
    words = "compare quickstart arms=lora,located budget=1% rates=1e-4 --quick steps=5"
    assert call(capsys, *words.split()) == (0, "", "")
    recipe = Recipe.load("quickstart", ["budget=1%", "steps=5"])
    options = {"quick": True, "trust_remote_code": False, "quiet": False}
    assert compared == [((recipe, "lora,located", "1e-4", None), options)]


def test_check_says_what_a_run_would_do(capsys, pipeline) -> None:
    said = "ok: quickstart: sft lora of smollm2-135m-instruct, budget 10%, 100 steps -> runs/quickstart\n"
    assert call(capsys, "check", "quickstart", "mode=lora", "rank=8") == (0, said, "")
    assert pipeline.calls == []


def test_recipes_are_listed_by_topic_with_what_they_do_and_their_data(capsys) -> None:
    code, out, err = call(capsys, "recipes")
    assert (code, err) == (0, "")
    first, *topics, key = out.split("\n\n")
    assert first.split()[0] == "quickstart"
    assert re.search(r"10% of the model \(sample seats, (about )?\d+ min\)$", first)
    assert key.startswith("minutes: on one CPU core")
    listed = {topic.splitlines()[0].replace(" ", "_"): topic.splitlines()[1:] for topic in topics}
    folders: dict[str, list[str]] = {}
    for name, path in shipped().items():
        folders.setdefault(path.parent.name, []).append(name)
    del folders["recipes"]
    assert {topic: [line.split()[0] for line in lines] for topic, lines in listed.items()} == folders
    assert list(listed) == sorted(listed)
    for line in (line for lines in listed.values() for line in lines):
        name, rest = line.split(maxsplit=1)
        recipe = Recipe.load(name)
        assert rest.startswith(f"{recipe.description} (")
        assert re.search(rf"{re.escape(str(recipe.data.name))}, (about )?\d+ min\)$", rest), "timed, or estimated"


def test_a_recipe_is_copied_as_it_is_and_never_overwritten_by_accident(capsys, here: Path) -> None:
    source = shipped()["quickstart"].read_bytes()
    assert call(capsys, "recipes", "copy", "quickstart") == (
        0,
        "wrote quickstart.yaml; run it with: guided-ft run quickstart.yaml\n",
        "",
    )
    assert (here / "quickstart.yaml").read_bytes() == source
    (here / "quickstart.yaml").write_text("mine")
    refusal = "quickstart.yaml: exists already (give another name, or --force)\n"
    assert call(capsys, "recipes", "copy", "quickstart") == (2, "", refusal)
    assert call(capsys, "recipes", "copy", "quickstart", ".") == (2, "", refusal)
    assert (here / "quickstart.yaml").read_text() == "mine"
    assert call(capsys, "recipes", "copy", "quickstart", "--force")[0] == 0
    assert (here / "quickstart.yaml").read_bytes() == source
    assert call(capsys, "recipes", "copy", "quickstart", "a/b.yaml")[0] == 0
    assert call(capsys, "recipes", "copy", "quickstart", "my own.yaml")[1].endswith(": guided-ft run 'my own.yaml'\n")
    assert (here / "a" / "b.yaml").read_bytes() == source.replace(b"name: quickstart", b"name: b")


@pytest.mark.parametrize("name", ["quickstart", "sums"])
@pytest.mark.parametrize("stem", ["my", "1", "no", "two words"])
def test_a_copy_is_called_as_its_file_and_is_else_the_same(capsys, here: Path, name: str, stem: str) -> None:
    assert call(capsys, "recipes", "copy", name, f"{stem}.yaml")[0] == 0
    assert Recipe.load(here / f"{stem}.yaml") == Recipe.load(name).model_copy(update={"name": stem})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("quikstart", "recipes: unknown value 'quikstart' (did you mean 'quickstart'?)"),
        ("quickstart my", "my: a recipe's file ends in .yaml (write my.yaml)"),
        ("quickstart runs/quickstart/run.json/x.yaml", "runs/quickstart/run.json: File exists (check the path, "),
    ],
)
def test_a_copy_that_cannot_be(capsys, here: Path, arguments: str, message: str) -> None:
    code, out, err = call(capsys, "recipes", "copy", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)


def test_report_and_show(capsys, report, here: Path) -> None:
    assert call(capsys, "report", "runs/quickstart") == (0, "wrote runs/quickstart/report.html\n", "")
    assert call(capsys, "show", "runs/quickstart") == (0, "the story of quickstart\n", "")


def test_estimate_hands_over_what_was_asked(capsys, estimates) -> None:
    assert call(capsys, "estimate", "some/model") == (0, "the table\n", "")
    options = "--budget 1% --dtype nf4 --batch 4 --length 64 --labelled 0.3 --rank 2 --gradient-checkpointing --json"
    code, out, err = call(capsys, "estimate", "some/model", *options.split())
    assert (code, json.loads(out), err) == (0, {"table": "the table"}, "")
    defaults = {"dtype": None, "rows": None, "length": None, "labelled": 1.0, "rank": 8, "checkpointing": False}
    given = {"dtype": "nf4", "rows": 4, "length": 64, "labelled": 0.3, "rank": 2, "checkpointing": True}
    assert estimates == [(("some/model", None), defaults), (("some/model", "1%"), given)]


@pytest.mark.parametrize("command", ["report", "show"])
def test_a_folder_without_a_run(capsys, report, here: Path, command: str) -> None:
    said = "runs: no run.json in it (give the folder of a finished run)\n"
    assert call(capsys, command, "runs") == (2, "", said)


def test_the_version(capsys, pipeline) -> None:
    assert call(capsys, "--version") == (0, f"guided-ft {__version__}\n", "")
    assert call(capsys, "--version", "run", "quickstart")[0] == 0
    assert pipeline.calls == []


# -- help -------------------------------------------------------------------------------------------------------------
def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))


def test_all_commands_are_there() -> None:
    names = {" ".join(path) for path in COMMANDS}
    commands_there = {*STAGES, "check", "compare", "estimate", "report", "show", "methods", *USES, "sft", "dpo"}
    assert names == {"", *commands_there, "recipes", "recipes copy"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_ends_with_examples_that_run(
    capsys, pipeline, compared, report, estimates, uses, drop_in, here: Path, path: tuple[str, ...]
) -> None:
    code, out, err = call(capsys, *path, "--help")
    assert (code, err) == (0, "")
    examples = out.split("Examples:\n")[1].splitlines()
    assert examples
    (here / "recipes").symlink_to(REPOSITORY / "recipes")
    (here / "tickets.jsonl").touch()
    (here / "trl.yaml").write_text("dataset_name: trl-lib/Capybara\n")
    (here / "questions.jsonl").write_text('{"prompt": "1+1="}\n')
    for example in examples:
        program, *arguments = shlex.split(example)
        assert program == "guided-ft"
        assert arguments[: len(path)] == list(path)
        code, out, err = call(capsys, *arguments)
        assert (code, err) == (0, ""), example


def test_the_examples_in_recipes_run(capsys, pipeline, here: Path) -> None:
    call(capsys, "recipes", "copy", "quickstart", "my.yaml")
    lines = [line for path in shipped().values() for line in path.read_text().splitlines()]
    examples = [match[1] for line in lines if (match := re.match(r"#   guided-ft (run \S+( \S+=\S+)*)", line))]
    assert len(examples) >= 2 * len(shipped())
    for example in examples:
        assert call(capsys, *example.split())[::2] == (0, ""), example


def test_no_command_prints_the_help(capsys) -> None:
    assert call(capsys) == call(capsys, "--help")


# -- mistakes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run quikstart", "'quikstart': no shipped recipe has this name (did you mean 'quickstart'?)"),
        ("run no.yaml", "no.yaml: cannot be read: No such file or directory (check the path)"),
        ("check quickstart budgt=1%", "override: budgt: unknown key (did you mean 'select.budget'?)"),
        (
            "compare quickstart arms=lora,slice",
            "compare: arms: 'slice' is a mode of the recipe's (write arms=located mode=slice)",
        ),
        ("compare quickstart arms=lorra", "compare: arms: unknown 'lorra' (did you mean 'lora'?)"),
        (
            "train quickstart steps=ten",
            "override: train.steps: expected an integer from 1 to 1000000000, got 'ten' (write a number such as 100)",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, pipeline, here: Path, arguments: str, message: str) -> None:
    assert call(capsys, *arguments.split()) == (2, "", f"{message}\n")
    assert pipeline.calls == []


@pytest.mark.parametrize(
    ("arguments", "said", "where"),
    [
        ("rnu quickstart", "No such command 'rnu'", "guided-ft"),
        ("recipes xyz", "No such command 'xyz'", "guided-ft recipes"),
        ("--foo", "No such option: --foo", "guided-ft"),
        ("run", "Missing argument 'RECIPE'", "guided-ft run"),
        ("run quickstart --steps 5", "No such option: --steps", "guided-ft run"),
        ("show", "Missing argument 'RUN_FOLDER'", "guided-ft show"),
    ],
)
def test_a_mistyped_command_is_one_line_and_exit_code_2(capsys, arguments: str, said: str, where: str) -> None:
    code, out, err = call(capsys, *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{where}: {said}")
    assert err.endswith(f" (see {where} --help)\n")


def test_what_the_pipeline_refuses_is_exit_code_2(capsys, pipeline) -> None:
    pipeline.failure = GuidedError("budget: 0.0001% buys nothing (raise the budget)")
    assert call(capsys, "run", "quickstart") == (2, "", "budget: 0.0001% buys nothing (raise the budget)\n")


def test_an_interrupt_is_one_line_and_exit_code_130(capsys, pipeline) -> None:
    pipeline.failure = KeyboardInterrupt()
    said = "interrupted: runs/quickstart can be continued with the same command\n"
    assert call(capsys, "run", "quickstart") == (130, "", said)


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run quickstart output=/dev/null/x", "/dev/null/x: Not a directory"),
        ("run quickstart output=/proc/x", "/proc/x: No such file or directory"),
        ("run quickstart output=runs/quickstart/run.json", "runs/quickstart/run.json: File exists"),
        (f"recipes copy quickstart {LONG}.yaml", f"{LONG}.yaml: File name too long"),
        (f"show {LONG}", f"{LONG}/run.json: File name too long"),
        (f"report {LONG}", f"{LONG}/run.json: File name too long"),
    ],
)
def test_what_the_machine_refuses_is_one_line_and_exit_code_2(capsys, here: Path, arguments: str, message: str) -> None:
    assert call(capsys, *arguments.split()) == (2, "", f"{message} (check the path, or give another)\n")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (PermissionError(13, "Permission denied", "a\nb"), "a b: Permission denied"),
        (IsADirectoryError(21, "Is a directory", ".x.tmp", None, "RESULTS.md"), "RESULTS.md: Is a directory"),
        (OSError(28, "No space left on device"), "guided-ft: No space left on device"),
        (OSError("the disk\nwent away"), "guided-ft: the disk went away"),
    ],
)
def test_so_is_what_it_refuses_on_the_way(capsys, pipeline, failure: OSError, message: str) -> None:
    pipeline.failure = failure
    assert call(capsys, "run", "quickstart") == (2, "", f"{message} (check the path, or give another)\n")


def test_a_bug_is_not_hidden(pipeline) -> None:
    pipeline.failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["run", "quickstart"])
