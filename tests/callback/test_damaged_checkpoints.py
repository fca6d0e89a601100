"""Damaged checkpoints: the newest whole one is used and said, or the cause is; nothing is loaded before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import make
from refusing import refuses
from trainers import MODES, SAVE, STEPS, another, base, digests, plain, ready, sft

from guided_ft import GuidedCallback, Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.callback.resume import MARKER, fault, seal

NEWEST, OLDER = f"checkpoint-{STEPS}", f"checkpoint-{SAVE}"


def edited(folder: Path, change) -> None:
    data = json.loads((folder / MARKER).read_text())
    change(data)
    (folder / MARKER).write_text(json.dumps(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without_optimizer(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()
    seal(folder, json.loads((folder / MARKER).read_text())["plan"])


DAMAGES = {
    "optimizer gone": (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt missing"),
    "optimizer cut": (lambda c: cut(c / "optimizer.pt"), "optimizer.pt damaged"),
    "optimizer never saved": (without_optimizer, "it holds no optimizer (was it saved with save_only_model=True?)"),
    "scheduler empty": (lambda c: (c / "scheduler.pt").write_bytes(b""), "scheduler.pt damaged"),
    "random state gone": (lambda c: (c / "rng_state.pth").unlink(), "rng_state.pth missing"),
    "weights cut": (lambda c: cut(c / "adapter_model.safetensors"), "adapter_model.safetensors damaged"),
    "a bit of the weights": (lambda c: flipped(c / "adapter_model.safetensors"), "adapter_model.safetensors damaged"),
    "weights are a folder": (lambda c: a_folder(c / "adapter_model.safetensors"), "adapter_model.safetensors missing"),
    "weights of a whole model": (
        lambda c: shutil.copy(c / "adapter_model.safetensors", c / "model.safetensors"),
        "model.safetensors was put in after it was saved",
    ),
    "configuration changed": (lambda c: flipped(c / "adapter_config.json"), "adapter_config.json damaged"),
    "state half written": (lambda c: (c / "trainer_state.json").write_text("{"), "trainer_state.json damaged"),
    "no marker": (
        lambda c: (c / MARKER).unlink(),
        f"{MARKER} missing: it was saved without GuidedCallback, or its save was cut off",
    ),
    "marker half written": (lambda c: (c / MARKER).write_text("{"), f"{MARKER} damaged"),
    "marker of something else": (lambda c: edited(c, lambda d: d.update(kind="plan")), f"{MARKER} damaged"),
    "marker lists a list": (lambda c: edited(c, lambda d: d.update(files=["optimizer.pt"])), f"{MARKER} damaged"),
    "marker lists nothing": (
        lambda c: edited(c, lambda d: d.update(files={})),
        "adapter_config.json was put in after it was saved",
    ),
    "marker climbs out": (lambda c: edited(c, lambda d: d["files"].update({"../x": "0"})), f"{MARKER} damaged"),
    "another plan": (lambda c: edited(c, lambda d: d.update(plan="0")), "it was made by another plan"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that was saved twice."""
    folder = tmp_path_factory.mktemp("finished")
    plain(base(folder), folder / "run", [GuidedCallback(ready(make("llama"), "slice"))]).train()
    return folder


def copied(finished: Path, folder: Path):
    """The run again, in a folder of its own, and a trainer in it."""
    shutil.copytree(finished / "run", folder / "run")
    return plain(base(finished), folder / "run", [GuidedCallback(ready(make("llama"), "slice"))])


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_newest_whole_one_is_used_and_said(kind, finished, tmp_path, caplog):
    damage, said = DAMAGES[kind]
    trainer, newest = copied(finished, tmp_path), tmp_path / "run" / NEWEST
    damage(newest)
    aside = f"set-aside1-{NEWEST}"
    trainer.train(resume_from_checkpoint=True)
    assert f"{NEWEST} cannot be resumed ({said}) and is {aside} now; resumed from {OLDER}" in caplog.text
    assert digests(newest) == digests(finished / "run" / NEWEST)
    assert fault(newest) is None
    assert (tmp_path / "run" / aside).is_dir()


@pytest.mark.parametrize("kind", DAMAGES)
def test_one_that_is_asked_for_is_refused_before_anything_is_loaded(kind, finished, tmp_path, monkeypatch):
    damage, said = DAMAGES[kind]
    trainer = copied(finished, tmp_path)
    damage(tmp_path / "run" / NEWEST)
    monkeypatch.setattr(trainer, "_load_from_checkpoint", lambda *args, **kwargs: pytest.fail("loaded"))
    with refuses(f"{NEWEST} cannot be resumed ({said}): resume from {OLDER}"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / NEWEST))
    shutil.rmtree(tmp_path / "run" / OLDER)
    with refuses(f"{NEWEST} cannot be resumed ({said}): start afresh"):
        trainer.train(resume_from_checkpoint=True)
    assert (tmp_path / "run" / NEWEST).is_dir(), "a run that is refused moves nothing"


def test_no_checkpoint_at_all_is_said(finished, tmp_path):
    trainer = plain(base(finished), tmp_path / "run", [GuidedCallback(ready(make("llama"), "slice"))])
    with refuses(
        f"{tmp_path / 'run'}: there is no checkpoint to resume from (leave resume_from_checkpoint out to start afresh)"
    ):
        trainer.train(resume_from_checkpoint=True)
    with refuses("checkpoint-9 cannot be resumed (there is no such folder): start afresh"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-9"))


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_of_another_plan_is_refused_by_that_name(mode, tmp_path):
    model = make("llama")
    sft(base(tmp_path), tmp_path / "run", [GuidedCallback(ready(model, mode))]).train()
    smaller = [Plan(Selection.parse("L1.H2", Anatomy.of(model)), mode)] if mode != "subspace" else []
    for other in [another(model, mode), *smaller]:
        trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(other)])
        start = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        for asked in (True, str(tmp_path / "run" / NEWEST)):
            with refuses(f"{NEWEST} cannot be resumed (it was made by another plan): start afresh"):
                trainer.train(resume_from_checkpoint=asked)
        assert all(torch.equal(p, start[n]) for n, p in trainer.model.named_parameters())
