"""A comparison of ways of training: what it asks, what its cells share, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from tiny_run import recipe

from guided_ft import GuidedError, Plan, Recipe
from guided_ft.cli import main
from guided_ft.pipeline import stages
from guided_ft.pipeline.compare import cell as cells_of
from guided_ft.pipeline.compare import compare as comparing
from guided_ft.pipeline.compare.arms import ARMS
from guided_ft.pipeline.compare.asked import NARROW, Asked, rate_of, split
from guided_ft.pipeline.compare.base import Base
from guided_ft.pipeline.compare.clock import Clock
from guided_ft.pipeline.compare.compare import compare
from guided_ft.pipeline.compare.found import command
from guided_ft.pipeline.data import load_rows
from guided_ft.pipeline.whole import Whole
from guided_ft.system.files import write_json

SMALL = {"evaluate": {"retention_examples": 2, "retention_tokens": 8}}


def small(folder: Path, **changes):
    return recipe(folder, **{**SMALL, "train": {"steps": 3}, "localize": {"retain": "none", "examples": 32}, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One comparison of all arms at one rate: the folder, the recipe, what was found and what was told."""
    folder = tmp_path_factory.mktemp("compare")
    asked = small(folder)
    return folder, asked, compare(asked, rates="x1", quiet=True, isolated=False)


def home(folder: Path) -> Path:
    return folder / "run" / "compare"


def rows(folder: Path) -> Base:
    base = Base.load(home(folder))
    assert base is not None
    return base


# -- what is asked for ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"arms": "full,lorra"}, "compare: arms: unknown 'lorra' (did you mean 'lora'?)"),
        ({"arms": ""}, "compare: arms: 0 of them (give 1 to 100, with commas between)"),
        ({"rates": "1e-3,fast"}, "compare: rates: 'fast' is not a rate above 0 (write 1e-4,1e-3 or x0.3,x1,x3)"),
        ({"rates": "-1"}, "compare: rates: '-1' is not a rate above 0 (write 1e-4,1e-3 or x0.3,x1,x3)"),
        ({"rates": "nan"}, "compare: rates: 'nan' is not a rate above 0 (write 1e-4,1e-3 or x0.3,x1,x3)"),
        ({"seeds": "0,one"}, "compare: seeds: 'one' is not a whole number from 0 (write 0,1,2)"),
    ],
)
def test_what_cannot_be_read_is_one_line(words, line):
    with pytest.raises(GuidedError) as error:
        Asked.of(Recipe.load("quickstart"), **words)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("override", "arms", "line"),
    [
        ("evaluate.retention=none", None, "evaluate.retention: none, so forgetting cannot be measured"),
        ("data.test=0", None, "data.test: 0, so there is nothing to compare on"),
        ("quantization=nf4", "located,full", "'full' trains the base's own weights, which nf4 does not allow"),
    ],
)
def test_what_a_recipe_does_not_allow_is_told_at_once(override, arms, line):
    with pytest.raises(GuidedError, match=re.escape(line)):
        Asked.of(Recipe.load("quickstart", [override]), arms)


def test_words_are_read_and_the_rest_goes_to_the_recipe():
    own, overrides = split(["arms=lora, located,lora", "steps=50", "rates=[x0.3,1e-4]", "seed=3"])
    assert overrides == ["steps=50", "seed=3"]
    asked = Asked.of(Recipe.load("quickstart", overrides), **own)
    assert (asked.arms, asked.rates, asked.seeds) == (("lora", "located"), ("x0.3", "0.0001"), (3,))
    assert "full" not in Asked.of(Recipe.load("quickstart", ["quantization=nf4"])).arms
    assert Asked.of(Recipe.load("sums"), quick=True).rates == NARROW


def test_a_rate_is_a_factor_on_the_rule_or_a_number():
    assert rate_of("x0.3", 0.0033) == 0.00099
    assert rate_of("1e-4", 0.0033) == 1e-4


# -- the parts of the data --------------------------------------------------------------------------------------------
def test_rates_are_picked_on_rows_that_nothing_trains_on(done):
    folder, asked, found = done
    base = rows(folder)
    train, test = load_rows(base.settled.data, 0, "sft")
    assert found.examples == {"train": 20, "validation": 4, "test": 8}
    assert len(train) == 24
    assert (train, test) == load_rows(asked.data, 0, "sft")
    # 32 were asked for; the map is made from rows that train.
    assert base.settled.localize.examples == 20


def test_both_parts_are_measured_alike_where_only_one_has_long_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("guided_ft.pipeline.measure.OPEN", 16)
    paths = {}
    for part, length in (("path", 20), ("test_path", 4)):
        lines = [json.dumps({"prompt": f"{i} =", "completion": f" {i:0{length}}"}) + "\n" for i in range(30)]
        (tmp_path / part).with_suffix(".jsonl").write_text("".join(lines))
        paths[part] = str(tmp_path / f"{part}.jsonl")
    asked = small(tmp_path, train={"steps": 1}, data={"source": "file", "test": 8, **paths})
    found = compare(asked, arms="lora", rates="x1", quiet=True, isolated=False)
    (result,) = (json.loads(path.read_text()) for path in home(tmp_path).glob("cells/*/result.json"))
    assert {*result["validation"]} == {*result["test"]} == {"exact_match", "loss"}
    assert found.ways[0].points[0].validation_loss


# -- the arms ---------------------------------------------------------------------------------------------------------
def test_every_arm_trains_what_it_says(done):
    folder, _, found = done
    run = stages.Run(rows(folder).settled)
    own, lora = (ARMS[name].plan(run, 0) for name in ("located", "lora"))
    drawn = [ARMS["random"].plan(run, seed) for seed in (0, 1)]
    full = ARMS["full"].plan(run, 0)
    assert own == Plan.load(home(folder) / "base" / "plan.json")
    assert isinstance(full, Whole)
    assert full.num_parameters == own.selection.anatomy.num_parameters
    # Stock LoRA: the same rank everywhere, as large as the own choice pays for.
    config = lora.peft_config()
    anatomy = own.selection.anatomy
    assert len(config.target_modules) == anatomy.num_layers * len(anatomy.shapes)
    assert not config.rank_pattern
    one = lora.num_parameters // config.r
    assert lora.num_parameters <= own.num_parameters < lora.num_parameters + one
    assert {plan.mode for plan in drawn} == {own.mode}
    assert drawn[0].selection != drawn[1].selection
    for plan in drawn:
        assert plan.num_parameters == pytest.approx(own.num_parameters, rel=0.1)
    assert [way.trainable for way in found.ways] == [
        full.num_parameters, lora.num_parameters, own.num_parameters, drawn[0].num_parameters,
    ]  # fmt: skip


def test_a_tiny_budget_buys_lora_of_rank_one(done, monkeypatch):
    folder, _, _ = done
    monkeypatch.setattr(Plan, "num_parameters", property(lambda plan: 5))
    assert ARMS["lora"].plan(stages.Run(rows(folder).settled), 0).rank == 1


def test_an_arm_of_another_mode_has_its_own_map(done):
    folder, asked, found = done
    more = compare(asked, arms="subspace,lora-fa,located", rates="x1", quiet=True, isolated=False)
    directions, random, own = more.ways
    # What the slice is made from is where it was, so its cell is not done again.
    assert own == found.ways[2]
    assert (home(folder) / "base-subspace" / "directions.safetensors").is_file()
    plan = Plan.load(home(folder) / "base-subspace" / "plan.json")
    assert plan.mode == "subspace"
    assert directions.trainable == plan.num_parameters == random.trainable
    assert random.control == "subspace"
    assert directions.points[0].score != random.points[0].score


# -- what it does and leaves ------------------------------------------------------------------------------------------
def test_every_cell_is_measured_and_its_weights_are_gone(done):
    folder, _, found = done
    base = rows(folder)
    for way in found.ways:
        (point,) = way.points
        assert point.rate == rate_of("x1", base.arms[way.name].rule)
        assert (len(point.score), len(point.validation), point.failed) == (1, 1, ())
        assert len(point.validation_loss) == 1
        assert point.peak_bytes[0] > 10**7
        assert point.file_bytes > 4 * way.trainable
        cell = home(folder) / "cells" / f"{way.name}-{point.rate:g}-s0"
        assert [path.name for path in cell.iterdir()] == ["result.json"]
        result = json.loads((cell / "result.json").read_text())
        assert point.forgetting[0] == pytest.approx(result["retention"]["loss"] - base.loss)
        assert result["retention"]["loss"] != base.loss
    assert {way.name: way.localize_seconds > 0 for way in found.ways} == {
        "full": False, "lora": False, "located": True, "random": False,
    }  # fmt: skip
    assert (home(folder) / "report.html").is_file()


def test_where_no_answer_is_right_the_loss_on_them_is_compared(done):
    _, _, found = done
    # A random model answers nothing right; its loss on the right answers falls all the same.
    assert found.metric == "loss"
    assert all(way.points[0].score[0] < found.base["score"] for way in found.ways)


def test_the_line_that_repeats_a_comparison_is_what_a_shell_reads(tmp_path):
    where = tmp_path / "my runs"
    asked = Asked.of(small(tmp_path, output=str(where)), rates="x0.3,x1")
    typed = shlex.split(command(asked, asked.home))
    assert typed[:3] == ["guided-ft", "compare", str(where / "compare" / "recipe.yaml")]
    assert "rates=x0.3,x1" in typed[3:]


def test_what_is_done_is_not_done_again_and_more_rates_do_only_these(done, monkeypatch):
    _, asked, found = done
    ran: list[str] = []
    real = cells_of.run_cell
    monkeypatch.setattr(
        "guided_ft.pipeline.compare.worker.run_cell",
        lambda run, base, cell, home: (ran.append(cell.name), real(run, base, cell, home)),
    )
    again = compare(asked, rates="x1", quiet=True, isolated=False)
    assert ran == []
    assert again.ways == found.ways
    more = compare(asked, arms="located", rates="x1,x3", quiet=True, isolated=False)
    assert len(ran) == 1
    assert ran[0].startswith("located-")
    assert more.ways[0].points[0] == found.ways[2].points[0]


def test_a_comparison_of_other_settings_is_not_overwritten(done):
    folder, asked, _ = done
    with pytest.raises(GuidedError, match=r"holds a comparison of other settings \(train.steps; give another folder"):
        compare(small(folder, train={"steps": 4}), rates="x1", quiet=True, isolated=False)
    assert compare(asked, arms="lora", rates="x1", quiet=True, isolated=False).ways[0].points


def test_a_result_that_was_changed_is_made_anew(done, monkeypatch):
    folder, asked, found = done
    path = next(home(folder).glob("cells/lora-[0-9]*/result.json"))
    text = path.read_text()
    write_json(path, json.loads(text) | {"key": "of another base"})
    again = compare(asked, arms="lora", rates="x1", quiet=True, isolated=False)
    assert json.loads(path.read_text())["key"] == json.loads(text)["key"]
    # The same seed begins the same adapter and orders the same examples, whatever ran before it.
    assert again.ways[0].points[0].score == found.ways[1].points[0].score
    assert again.ways[0].points[0].forgetting == found.ways[1].points[0].forgetting


def test_a_result_of_other_metrics_is_made_anew(done):
    _, asked, found = done
    path = next(home(done[0]).glob("cells/lora-[0-9]*/result.json"))
    result = json.loads(path.read_text())
    write_json(path, result | {"validation": {"loss": result["validation"]["loss"]}})
    again = compare(asked, arms="lora", rates="x1", quiet=True, isolated=False)
    assert json.loads(path.read_text())["validation"] == result["validation"]
    assert again.ways[0].points[0].validation == found.ways[1].points[0].validation


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    asked = small(tmp_path)
    real = cells_of._measured

    def interrupt(run, base, cell, folder):
        if cell.arm == "located":
            folder.mkdir(parents=True)
            (folder / "half").touch()
            raise KeyboardInterrupt
        return real(run, base, cell, folder)

    with monkeypatch.context() as patch:
        patch.setattr(cells_of, "_measured", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare(asked, arms="random,located", rates="1e-3", quiet=True, isolated=False)
    first = next(home(tmp_path).glob("cells/random-*/result.json")).read_text()
    assert not list(home(tmp_path).glob("cells/located-*/result.json"))
    found = compare(asked, arms="random,located", rates="1e-3", quiet=True, isolated=False)
    assert next(home(tmp_path).glob("cells/random-*/result.json")).read_text() == first
    assert [len(way.points[0].score) for way in found.ways] == [1, 1]
    assert not list(home(tmp_path).rglob("half"))


def test_a_rate_that_is_too_high_is_a_result_too(done, capsys):
    _, asked, _ = done
    found = compare(asked, arms="located", rates="1e30,x1", isolated=False)
    low, high = found.ways[0].points
    assert high.score == ()
    assert high.failed
    assert found.ways[0].best(found.metric) == low
    told = capsys.readouterr().out
    assert "no result" in told
    assert "located (slice): no result at 1e+30" in told


def test_what_a_mishap_kept_from_being_done_is_tried_again(tmp_path, monkeypatch):
    asked = small(tmp_path)
    real = comparing.work

    def out_of_reach(home, name, trust, tell):
        if name == "located":
            (tmp_path / "base-llama").rename(tmp_path / "away")
        try:
            real(home, name, trust, tell)
        finally:
            if name == "located":
                (tmp_path / "away").rename(tmp_path / "base-llama")

    with monkeypatch.context() as patch:
        patch.setattr(comparing, "work", out_of_reach)
        with pytest.raises(GuidedError, match="cannot be loaded"):
            compare(asked, arms="located", rates="x1", quiet=True, isolated=False)
    assert not list(home(tmp_path).glob("cells/*/result.json"))
    assert compare(asked, arms="located", rates="x1", quiet=True, isolated=False).ways[0].points[0].score


def test_files_that_are_gone_are_made_again(tmp_path):
    asked = small(tmp_path)
    compare(asked, arms="located", rates="x1", quiet=True, isolated=False)
    shutil.rmtree(home(tmp_path) / "base")
    found = compare(asked, arms="located", rates="x1,x3", quiet=True, isolated=False)
    assert [len(point.score) for point in found.ways[0].points] == [1, 1]


def test_an_arm_that_could_not_be_prepared_is_tried_again(tmp_path, monkeypatch):
    def refuse(run, mode):
        raise GuidedError("the map's text is out of reach")

    asked = small(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("guided_ft.pipeline.compare.base.in_mode", refuse)
        with pytest.raises(GuidedError, match="compare: arms: lora: the map's text is out of reach"):
            compare(asked, arms="lora", rates="x1", quiet=True, isolated=False)
    assert compare(asked, arms="lora", rates="x1", quiet=True, isolated=False).ways[0].points[0].score


def test_memory_that_runs_out_costs_one_arm_only(done, monkeypatch, capsys):
    _, asked, _ = done
    real = comparing.work

    def work(home, name, trust, tell):
        if name == "full":
            raise MemoryError
        real(home, name, trust, tell)

    monkeypatch.setattr(comparing, "work", work)
    found = compare(asked, arms="full,located", rates="x2", isolated=False)
    full, located = found.ways
    assert full.note == "out of memory"
    assert full.best(found.metric) is None
    assert located.best(found.metric) is not None
    assert "full fine-tuning: out of memory." in capsys.readouterr().out


@pytest.mark.slow
def test_what_the_machine_refuses_a_worker_is_one_line(done, tmp_path, capfd):
    folder, asked, _ = done
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(home(tmp_path) / "cells")
    (home(tmp_path) / "cells").write_text("a file where a folder should be")
    asked.save(tmp_path / "recipe.yaml")
    with pytest.raises(SystemExit) as left:
        main(["compare", str(tmp_path / "recipe.yaml"), "arms=located", "rates=x1", f"output={tmp_path / 'run'}"])
    told = capfd.readouterr().err.splitlines()
    assert left.value.code == 2
    assert [line for line in told if "check the path" in line] == told[-1:]
    assert str(home(tmp_path) / "cells") in told[-1]
    assert not any("Traceback" in line for line in told)


def test_a_mistake_leaves_no_folder(tmp_path):
    asked = small(tmp_path, model="no/such-model")
    with pytest.raises(GuidedError, match="cannot be loaded"):
        compare(asked, quiet=True, isolated=False)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_a_run_is_shared_with_it(done, tmp_path):
    folder, _, _ = done
    assert (folder / "run" / ".guided-ft.json").is_file()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(GuidedError, match="holds files that no run made"):
        compare(small(tmp_path), quiet=True, isolated=False)


# -- the clock --------------------------------------------------------------------------------------------------------
def test_the_clock_learns_from_what_cells_took():
    clock = Clock({"full": 100.0, "located": 40.0})
    assert clock.left(["full", "located", "located"]) == 180
    clock.note("full", 200.0)
    # Twice what was expected: so will the other arm be, until one of its own is done.
    assert clock.left(["full", "located"]) == 280
    clock.note("located", 50.0)
    assert clock.left(["full", "located"]) == 250
