"""The promises and what holds the package to them: writes ``tests/README.md`` from this table, ``faults.py`` and
``tests/results``.

python tests/tools/promises.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import figures
from faults import FAULTS

PAGE = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Promise:
    """One of them.

    Args:
        text: what holds.
        tests: that hold it, below ``tests``.
        command: that shows more of it.
        result: name of the file of figures that the command keeps; empty: the test's own outcome is all there is.
    """

    text: str
    tests: tuple[str, ...]
    command: str
    result: str = ""


PROMISES: dict[str, tuple[Promise, ...]] = {
    "Nothing lost": (
        Promise(
            "Killed at any moment, a run goes on to the same bits: slices, whole weights, LoRA, directions; SFT and DPO",
            ("pipeline/test_kill.py",),
            "python tests/tools/kill_run.py FOLDER --long 200 --record",
            "kills",
        ),
        Promise(
            "A damaged checkpoint is never resumed from: the newest whole one is, and that is said",
            ("callback/test_damaged_checkpoints.py", "pipeline/test_kill.py"),
            "pytest tests/callback/test_damaged_checkpoints.py",
        ),
        Promise(
            "Control-C and SIGTERM save and say how to go on; asked twice, it ends at once",
            ("pipeline/test_signals.py",),
            "pytest tests/pipeline/test_signals.py",
        ),
        Promise(
            "Disk full, or permission denied, at any write of a run: the path is named, and run again it goes on to the "
            "same bits",
            ("pipeline/test_full_disk.py",),
            "pytest tests/pipeline/test_full_disk.py",
        ),
        Promise(
            "A finished run, and what a user keeps in a folder, stay until a successor is whole; one process a folder",
            ("pipeline/test_run_folder.py",),
            "pytest tests/pipeline/test_run_folder.py",
        ),
        Promise(
            "What the first version wrote is read by this one: map, choice, plan, adapter, recipe, record of a run",
            ("system/test_first_format.py",),
            "pytest tests/system/test_first_format.py",
        ),
    ),
    "Nothing silently wrong": (
        Promise(
            "A deliberate fault in the package makes a fast test fail",
            ("laws/test_mutants.py",),
            "python tests/mutants/run.py --record",
            "mutants",
        ),
        Promise(
            "What is not finite stops the training by name, and is never saved",
            ("callback/test_finite.py", "callback/test_guards.py", "scorers/test_scorer_laws.py"),
            "pytest tests/callback/test_finite.py tests/callback/test_guards.py",
        ),
        Promise(
            "Out of memory, localization goes on in smaller batches, with the same scores",
            ("scorers/test_out_of_memory.py",),
            "pytest tests/scorers/test_out_of_memory.py",
        ),
        Promise(
            "Whatever a stage depends on, content of data and weights too, makes it run again when it changes",
            ("pipeline/test_fingerprint.py", "pipeline/test_run_folder.py"),
            "pytest tests/pipeline/test_fingerprint.py",
        ),
        Promise(
            "Two processes train, save and score what one does, to 1e-6; with weights spread over them (FSDP2), too",
            ("callback/test_ddp.py",),
            "pytest tests/callback/test_ddp.py",
        ),
        Promise(
            "On a device that is not the CPU every tensor is made where it belongs, in training, localizing and saving, and "
            "no step waits",
            ("laws/test_other_device.py", "callback/test_cuda.py"),
            "pytest tests/laws/test_other_device.py",
        ),
        Promise(
            "What only a GPU can show is one table, whose rows run on the CPU too: all modes, nf4, int8, kernels, DDP, FSDP2",
            ("laws/test_gpu_rows.py",),
            "tests/gpu.sh",
        ),
        Promise(
            "A map repeats bit for bit; another order, batch, padding, number of threads or processes moves it by less than "
            "1e-5 of its largest",
            ("scorers/test_scorer_laws.py", "scorers/test_scorers.py", "callback/test_ddp.py"),
            "pytest tests/scorers/test_scorer_laws.py",
        ),
        Promise(
            "Long trainings and many runs in one process take no more memory and leave no file open",
            ("system/test_soak.py",),
            "python tests/tools/soak.py --record",
            "soak",
        ),
        Promise(
            "No hook, gradient or mode is left behind by any scorer or map of directions, also after a fault",
            ("scorers/test_nothing_left.py", "scorers/test_scorer_laws.py"),
            "pytest tests/scorers/test_nothing_left.py",
        ),
    ),
    "Nonsense is refused in one line": (
        Promise(
            "A recipe with a mistake, with nothing run and nothing written",
            ("recipe/test_recipe_mistakes.py", "laws/test_fuzz.py"),
            "python tests/tools/fuzz.py recipes --record",
            "fuzz-recipes",
        ),
        Promise(
            "A damaged file of examples",
            ("laws/test_fuzz.py", "task/test_formats.py"),
            "python tests/tools/fuzz.py data --record",
            "fuzz-data",
        ),
        Promise(
            "A damaged file of ours (map, choice, plan, adapter, weights, tokenizer, cache, checkpoint, record of a run)",
            ("laws/test_fuzz.py", "system/test_places.py", "slice/test_slice_hostile.py", "use/test_use.py"),
            "python tests/tools/fuzz.py artifacts --record",
            "fuzz-artifacts",
        ),
        Promise(
            "No key, token or password is committed",
            ("laws/test_no_secrets.py",),
            "pytest tests/laws/test_no_secrets.py",
        ),
        Promise(
            "CI installs one version of each dependency, and of all but torch the bytes that are known by their hash",
            ("test_locks.py",),
            "pytest tests/test_locks.py",
        ),
    ),
    "On the versions that are declared": (
        Promise(
            "The fast tests pass on the lowest and on the newest of them",
            ("test_package.py",),
            "python tests/tools/versions.py lowest --record",
            "versions",
        ),
    ),
}

SEEN = """## Faults that were seen

What went wrong in use or under attack, and the tests that fail when it comes back.

| fault | tests |
| --- | --- |"""

HEAD = """# Promises

Written by `python tests/tools/promises.py`. What holds, the test that would fail if it did not, and the command that
shows more. Where the command keeps figures (`--record`), they lie in [results](results) with their day and versions;
the others say nothing but that the test passes.
"""


def text() -> str:
    """The page."""
    parts = [HEAD]
    for title, promises in PROMISES.items():
        parts += [f"## {title}\n", "| promise | tests | command | last result |\n| --- | --- | --- | --- |"]
        for promise in promises:
            tests = ", ".join(f"`{test}`" for test in promise.tests)
            parts.append(f"| {promise.text} | {tests} | `{promise.command}` | {_result(promise)} |")
        parts.append("")
    parts.append(SEEN)
    for title, faults in FAULTS.items():
        parts.append(f"| **{title}** | |")
        parts += [f"| {fault.seen} | {', '.join(f'`{test}`' for test in fault.tests)} |" for fault in faults]
    return "\n".join([*parts, ""])


def _result(promise: Promise) -> str:
    if not promise.result:
        return "passes"
    kept = figures.read(promise.result)
    words = [f"{name} {value}" for name, value in kept["found"].items() if isinstance(value, int)]
    notes = [value for value in kept["found"].values() if isinstance(value, str)]
    return "; ".join([*filter(None, [", ".join(words)]), *notes, kept["day"]])


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
