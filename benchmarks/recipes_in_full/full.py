"""Run recipes in full, one process each, and keep what came of each as a row: a failure, too.

A row that is there is not made again, so what was stopped goes on with the same command.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_ft.cli.shipped import source
from guided_ft.recipe.finding import topic
from guided_ft.recipe.recipe import Data, Recipe, shipped
from guided_ft.report.record import read_run
from guided_ft.system.files import digest, read_jsonl, read_text, write_text
from guided_ft.system.machine import machine, versions
from guided_ft.task.spread import spread

from .copies import find, find_kept

Row = dict[str, Any]

ROOT = Path(__file__).parents[2]

TEXTS = ("samples", "use")
"""What a row leaves out of a run's record: texts of the data, and lines with paths of this machine."""


@dataclass(frozen=True)
class Job:
    """A recipe to run in full.

    Args:
        name: of a shipped recipe.
        overrides: what is typed behind it: a local copy of its data, and changes.
        data: what it reads, for people; None: what the recipe says.
        changes: keys that were changed on purpose, such as fewer steps.
        kept: what stands for its samples of what must be kept, for people; None: they are as the recipe says.
    """

    name: str
    overrides: tuple[str, ...] = ()
    data: str | None = None
    changes: tuple[str, ...] = ()
    kept: str | None = None

    @property
    def configuration(self) -> str:
        """A digest of all that the recipe says, so that a row is known to be of its present form.

        What is not said does not count: a row stays what it is when recipes get one more key.
        """
        said = Recipe.load(self.name, self.overrides).model_dump(mode="json", exclude_none=True)
        said["data"]["path"] = self.data
        if self.kept is not None:
            said["localize"]["retain"] = said["evaluate"]["retention"] = self.kept
        return digest([said, self.data])


@dataclass
class Place:
    """Where jobs run.

    Args:
        work: folder of the runs (``runs/NAME``), their logs and the rows of local copies.
        rows: file of rows.
        folders: with local copies of data.
        threads: of each process.
    """

    work: Path
    rows: Path
    folders: tuple[Path, ...] = ()
    threads: int = 1
    say: Callable[[str], None] = field(default=print)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, none where there is no file."""
    return [row for _, row in read_jsonl(path)] if path.is_file() else []


def jobs(names: Sequence[str], changes: Sequence[str], place: Place) -> list[Job]:
    """The shipped recipes, or those that are named, each on a local copy of its data where there is one.

    Raises:
        GuidedError: for a name that is none, or a change that the recipe does not take.
    """
    return [_job(name, tuple(changes), place) for name in names or shipped()]


def _job(name: str, changes: tuple[str, ...], place: Place) -> Job:
    recipe = Recipe.load(name, changes)
    kept, about = _kept(recipe, place)
    found = find(recipe.data, place.folders)
    if found is None:
        return Job(name, (f"name={name}", *kept, *changes), None, changes, about)
    copy, paths = found
    rows = [each for row in copy.read(paths) for each in spread(row)]
    said = copy.about.replace("{subset}", str(recipe.data.subset))
    data = f"{recipe.data.name}: {said}, local copy" if copy.same else f"in place of {recipe.data.name}: {said}"
    train, test = _amounts(recipe.data.train, recipe.data.test, len(rows))
    own = (f"data.path={_written(rows, place, name)}", f"data.train={train}", f"data.test={test}", f"name={name}")
    return Job(name, (*own, *kept, *changes), data, changes, about)


def _kept(recipe: Recipe, place: Place) -> tuple[list[str], str | None]:
    """Local copies in place of the samples that a recipe keeps: what is typed for them, and what they are."""
    typed, about = [], []
    for key, value in (
        ("localize.retain", recipe.localize.retain),
        ("evaluate.retention", recipe.evaluate.retention),
    ):
        found = find_kept(value, place.folders)
        if found is not None:
            copy, paths = found
            typed.append(f"{key}={_written(copy.read(paths), place, value)}")
            about.append(f"{value}: {copy.about}")
    return typed, ", ".join(about) or None


def _written(rows: Sequence[Row], place: Place, name: str) -> str:
    """A file of rows, as it is typed behind a key."""
    path = place.work / "data" / f"{name}.jsonl"
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return json.dumps(str(path.resolve()))


def _amounts(train: str | int, test: str | int, rows: int) -> tuple[str | int, str | int]:
    """As the recipe asks, or of a set with fewer rows a fifth to test and the rest to train."""
    few = not isinstance(train, int) or not isinstance(test, int) or train + test > 0.9 * rows
    return ("auto", "auto") if few else (train, test)


def run_all(wanted: Sequence[Job], place: Place, retry: bool = False) -> Iterator[Job]:
    """Run the jobs that have no row, in turn, and yield each when its row is written.

    Args:
        retry: also those whose row is a failure.
    """
    done = {row["configuration"]: row for row in read_rows(place.rows)}
    for number, job in enumerate(wanted, 1):
        row = done.get(job.configuration)
        head = f"{number} of {len(wanted)}  {job.name}"
        if row is not None and not (retry and row["failure"]):
            place.say(f"{head}: its row is there")
            continue
        place.say(f"{head}: {job.data or 'as it is'}")
        row = run_one(job, place)
        with open(place.rows, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        place.say(f"{head}: {row['failure'] or 'done'}")
        yield job


def run_one(job: Job, place: Place) -> Row:
    """Run a recipe in a process of its own, to its end or to its failure, and say what came of it."""
    place.rows.parent.mkdir(parents=True, exist_ok=True)
    log = place.work / "logs" / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    whole = not (place.work / "runs" / job.name).exists()
    before = _children()
    code = _process([sys.executable, "-m", "guided_ft", "run", job.name, *job.overrides], log, place)
    row: Row = {
        "recipe": job.name,
        "topic": topic(shipped()[job.name]),
        "configuration": job.configuration,
        "changes": list(job.changes),
        "data": job.data,
        "kept": job.kept,
        "threads": place.threads,
        # What others did on the machine meanwhile is not in it; of a run that only went on there is a part.
        "cpu_seconds": _children() - before if whole else None,
        "failure": None if code == 0 else _failure(code, read_text(log), place.work),
        "run": None,
    }
    if code:
        return row | {"machine": machine(), "versions": versions()}
    folder = place.work / "runs" / job.name
    run = read_run(folder).to_dict()
    said = Recipe.load(folder / "recipe.yaml")
    run["task"].pop("sample", None)
    if job.kept is not None and run.get("retention"):
        # Else the path of this machine's copy.
        run["retention"]["text"] = job.kept
    run["command"] = " ".join(("guided-ft run", job.name, *job.changes))
    trained = json.loads(read_text(folder / "stages" / "train.json"))["result"]
    row["data"] = job.data or read_from(Recipe.load(job.name, job.overrides).data, said.data)
    row["learning_rate"], row["steps"] = trained["learning_rate"], trained["loss"][-1][0]
    return row | {"run": {key: value for key, value in run.items() if key not in TEXTS}}


def read_from(asked: Data, read: Data) -> str:
    """What a run read, in a few words; ``asked`` is what its recipe says, which may have fallen back on a sample."""
    if read.source != "sample":
        return source(read)
    return source(read) + (" (made up: the hub was out of reach)" if asked.source == "hub" else " (made up)")


def seconds(row: Row) -> float:
    """What a run took on one core: its CPU time, or that on the clock where the other is not known."""
    return row.get("cpu_seconds") or sum(row["run"]["seconds"].values())


def _children() -> float:
    """CPU seconds of all processes that ended and were started here."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _process(command: list[str], log: Path, place: Place) -> int:
    threads = {name: str(place.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=place.work,
            env={**os.environ, **threads, "PYTHONPATH": path},
            stdout=file,
            stderr=subprocess.STDOUT,
            # Control-C reaches it once, from here: asked twice, it would stop without saving.
            start_new_session=True,
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if code == 130:
        raise KeyboardInterrupt
    return code


def _failure(code: int, said: str, work: Path) -> str:
    """One line: how the process ended, and the last thing that it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = (lines[-1] if lines else "nothing was said").replace(f"{work.resolve()}/", "")
    how = f"ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    return f"{how}: {last}"[:300]
