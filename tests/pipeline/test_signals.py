"""Control-C and SIGTERM: saved and ended, with how to go on; asked twice, ended at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import tiny_run
from tiny_run import adapter

from guided_ft import run
from guided_ft.callback.resume import checkpoints, fault
from guided_ft.pipeline import training
from guided_ft.system.signals import stop_on_request, terminated_as_interrupted

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread only"
)


MODES = {"slice": {}, "subspace": {"mode": "subspace", "mode_options": {"max_rank": 4, "keep": False}}}


def recipe(folder, name, mode):
    train = {"steps": 12, "save_steps": 100, **MODES[mode]}
    return tiny_run.recipe(folder, name, control="none", train=train, evaluate={"retention": "none"})


def signalling(number: int):
    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == 4:
            os.kill(os.getpid(), number)

    return on_step_begin


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_is_saved_and_goes_on_to_the_same_bits(number, mode, tmp_path, monkeypatch):
    run(recipe(tmp_path, "whole", mode), quiet=True)
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        patch.setattr(training._SaveAndStop, "on_step_begin", signalling(number))
        with pytest.raises(KeyboardInterrupt):
            run(recipe(tmp_path, "cut", mode), quiet=True)
    assert {s: signal.getsignal(s) for s in before} == before
    (saved,) = checkpoints(tmp_path / "cut" / "train")
    assert saved.name == "checkpoint-5"
    assert fault(saved) is None
    run(recipe(tmp_path, "cut", mode), quiet=True)
    assert adapter(tmp_path / "cut") == adapter(tmp_path / "whole")


def twice() -> None:
    with stop_on_request() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")


def terminated() -> None:
    with terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")


@pytest.mark.parametrize("act", [twice, terminated])
def test_asked_twice_or_outside_of_a_training_it_ends_at_once(act):
    with pytest.raises(KeyboardInterrupt):
        act()
