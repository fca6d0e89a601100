"""``run``: a recipe from the first question to the report. What is done and unchanged is not done again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..errors import GuidedError, pick
from ..report.facts import unit_of, value_of, words
from ..system.files import Json, digest, write_json, writing
from ..system.machine import give_back, peak_bytes
from ..system.progress import hushed
from . import run_folder, stages
from .fingerprint import stage_keys
from .hub import within_reach
from .preflight import preflight
from .record import run_record

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe
    from .results import After, Chosen, Controlled, Localized, Measured, Results, Trained


R = TypeVar("R")


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One step of a run.

    Args:
        name: of its entry in the run folder.
        call: does it; returns JSON data.
        outputs: files and folders that it leaves, relative to the run folder; some only by some recipes.
        tell: says in a few words what came out.
        needs: the stages whose outputs it reads.
        scratch: what only a stage that was interrupted goes on from, relative to the run folder.
    """

    name: str
    call: Callable[[stages.Run], R]
    outputs: tuple[str, ...]
    tell: Callable[[R], str]
    needs: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()


def _tell_scores(result: Measured) -> str:
    scores = result["scores"]
    told = [
        f"loss {value:.3f} nats a token" if name == "loss" else f"{words(name)} {value_of(name, value)}{unit_of(name)}"
        for name, value in scores.items()
        if name != "examples"
    ]
    return f"{', '.join(told) or 'nothing measured'} of {scores['examples']} held-out examples"


def _tell_after(result: After) -> str:
    kept = result["retention"]
    return _tell_scores(result) + (f"; KL to the base {kept['kl']:.4f} nats a token" if kept else "")


def _tell_localize(result: Localized) -> str:
    meta, sizes = result["meta"], result["sizes"]
    sides = "two-sided" if meta["retain"] else "one-sided"
    counts = ", ".join(f"{n:,} {kind}s" for kind, n in sizes.items())
    passes = f"{meta['passes']} pass{'es' * (meta['passes'] != 1)}"
    checks = [
        f"{len(found['components'])} {kind}s (rank correlation {found['spearman']:.2f}, recall {found['recall']:.0%})"
        for kind, found in (meta.get("verified") or {}).items()
    ]
    exact = f"; ablated exactly: {', '.join(checks)}" if checks else ""
    return f"{meta['method']}, {sides}: {counts} scored in {passes}{exact}"


def _tell_select(result: Chosen) -> str:
    counts = ", ".join(f"{n:,} {kind}{'s' * (n != 1)}" for kind, n in result["counts"].items() if n)
    trained, total = result["trainable"], result["total"]
    return f"{counts}: {trained:,} of {total:,} parameters ({trained / total:.3%})"


def _tell_train(result: Trained) -> str:
    name = "reward" if result.get("reward") else "loss"
    curve, frozen = result.get("reward") or result["loss"], result["frozen"]
    resumed = f", resumed from {result['resumed_from']}" if result["resumed_from"] else ""
    prefix = result["prefix"]
    asked = prefix["hits"] + prefix["misses"] if prefix["cache"] else 0
    kept = f"; {prefix['hits'] / asked:.0%} of prefixes from the cache" if asked else ""
    return (
        f"{name} {curve[0][1]:.2f} -> {curve[-1][1]:.2f} in {curve[-1][0]} steps{resumed}{kept}; "
        f"{frozen['identical']} of {frozen['total']} frozen tensors bit-identical"
    )


def _tell_control(result: Controlled) -> str:
    return "random, same budget: " + _tell_after(result["after"]) if result else "none"


CONTROL = (*(f"control/{name}" for name in stages.CHOICE), "control/adapter", "control/probe.safetensors")

STAGES: tuple[Stage[Any], ...] = (
    Stage("before", stages.before, (stages.HELD_OUT,), _tell_scores),
    Stage("localize", stages.localize, ("scores.safetensors", "scores.json"), _tell_localize),
    Stage("select", stages.choose, stages.CHOICE, _tell_select, ("localize",)),
    Stage("train", stages.train, ("adapter", "probe.safetensors"), _tell_train, ("select",), ("train",)),
    Stage("evaluate", stages.after, (), _tell_after, ("before", "train")),
    Stage("control", stages.control, CONTROL, _tell_control, ("before", "localize"), ("control/train",)),
)


def run(
    recipe: Recipe,
    *,
    until: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
) -> Json:
    """Run a recipe in its folder and return what is written to ``run.json``.

    A stage whose inputs are unchanged since it was last done is skipped, so an interrupted run goes on where it
    stopped when it is started again. What a stage left is compared by content. In the folder of a finished run of
    another recipe the new one is put aside, in ``next/``, until it is done and takes that one's place.

    Args:
        until: last stage to do (``localize``, ``select``, ``train``, ``evaluate``), after those that it needs; None:
            all, and the report.
        trust_remote_code: allow code that comes with a model of the Hub.
        quiet: print nothing.
        say: takes what is told on the way; None: it is printed.

    Returns:
        The content of ``run.json``; with ``until``, the results of the stages by name.
    """
    if until is not None:
        pick({stage.name: 0 for stage in STAGES}, until, "until")
    preflight(recipe)
    with hushed():
        return _run(within_reach(recipe), until, trust_remote_code, (lambda text: None) if quiet else say or _say)


def _say(text: str) -> None:
    print(text, flush=True)


def _run(recipe: Recipe, until: str | None, trust_remote_code: bool, say: Callable[[str], None]) -> Json:
    keys = stage_keys(recipe)
    with run_folder.claimed(recipe.output_dir) as home:
        say(f"{recipe.name}: {recipe.model}, seed {recipe.seed}, in {home}")
        found = {
            stage.name: run_folder.stage_entry(home, stage.name) for stage in STAGES if not _skipped(recipe, stage)
        }
        other = [name for name, entry in found.items() if entry and entry.get("key") != keys[name]]
        aside = bool(other) and (home / "run.json").exists()
        if aside:
            say(
                f"a finished run is there, of other settings ({', '.join(other)}): it stays until this one is done and "
                f"replaces it; until then this one is in {home / run_folder.NEXT} (output=... keeps both)"
            )
        elif other:
            say(f"replaced there, as it was made with other settings: {', '.join(other)}")
        with run_folder.successor(home) if aside else contextlib.nullcontext(home) as folder:
            context = stages.Run(recipe, trust_remote_code, folder, keys)
            results, seconds, peak = _stages(context, keys, until, say)
            if until is not None:
                return results
            recipe.save(folder / "recipe.yaml")
            record = run_record(context, cast("Results", results), seconds, peak)
            write_json(folder / "run.json", record.to_dict())
        if aside:
            run_folder.replace(home)
        from ..report import story, write_report

        path = write_report(home)
        say(story(record))
        say(f"report: {path}")
        return record.to_dict()


def _stages(
    context: stages.Run, keys: dict[str, str], until: str | None, say: Callable[[str], None]
) -> tuple[dict[str, Json], dict[str, float], int]:
    """Do the stages that are not done: their results and seconds by name, and the peak of memory in bytes."""
    results: dict[str, Json] = {}
    seconds: dict[str, float] = {}
    files: dict[str, dict[str, str]] = {}
    peak = 0
    first, needed = not (context.folder / "run.json").exists(), _needed(until)
    for number, stage in enumerate((stage for stage in STAGES if stage.name in needed), 1):
        key, inputs = keys[stage.name], digest(*(files[name] for name in stage.needs))
        skip = _skipped(context.recipe, stage)
        done = None if skip else _done(context, stage, key, inputs)
        mark = ", unchanged" if done else ""
        if done is None:
            nothing: Json = {"result": {}, "seconds": 0.0, "peak_bytes": 0, "files": {}}
            done = nothing if skip else _do(context, stage, key, inputs)
        results[stage.name], seconds[stage.name], files[stage.name] = done["result"], done["seconds"], done["files"]
        peak = max(peak, done["peak_bytes"])
        say(f" {number} {stage.name:<9} {stage.tell(done['result'])}  ({done['seconds']:.1f} s{mark})")
        if first:
            # Not earlier, so that a recipe that is refused replaces none; a finished run's goes with its run.json.
            context.recipe.save(context.folder / "recipe.yaml")
            first = False
    return results, seconds, peak


def _needed(until: str | None) -> set[str]:
    """The stage itself and, in their turn, those whose outputs it reads; None: all."""
    table = {stage.name: stage for stage in STAGES}
    if until is None:
        return set(table)
    return {until}.union(*(_needed(name) for name in table[until].needs))


def _skipped(recipe: Recipe, stage: Stage) -> bool:
    return stage.name == "control" and recipe.control == "none"


def _done(context: stages.Run, stage: Stage[Any], key: str, inputs: str) -> Json | None:
    """The entry of a stage that is done and whole: in the folder or, for a successor, in the finished run's."""
    home = context.recipe.output_dir
    for folder in dict.fromkeys((context.folder, home)):
        entry = run_folder.stage_entry(folder, stage.name)
        if not entry or (entry.get("key"), entry.get("inputs")) != (key, inputs):
            continue
        if entry.get("files") != run_folder.hashes(folder, stage.outputs):
            continue
        if folder != context.folder:
            for name in (*stage.outputs, run_folder.entry_name(stage.name)):
                run_folder.bring(name, home, context.folder)
        return entry
    return None


def _do(context: stages.Run, stage: Stage[Any], key: str, inputs: str) -> Json:
    began = time.perf_counter()
    with writing(context.folder):
        result = stage.call(context)
    give_back()
    entry = {"key": key, "inputs": inputs, "result": result}
    entry |= {"seconds": round(time.perf_counter() - began, 2), "peak_bytes": peak_bytes()}
    entry["files"] = run_folder.hashes(context.folder, stage.outputs)
    try:
        run_folder.keep_entry(context.folder, stage.name, entry)
    except ValueError:
        # JSON holds no NaN. A gradient that is not finite stops its step, but nothing looks at what the last one made.
        raise GuidedError(
            f"stage {stage.name}: what was measured is not finite (check the data, or lower the learning rate)"
        ) from None
    for name in stage.scratch:
        run_folder.remove(context.folder / name)
    return entry
