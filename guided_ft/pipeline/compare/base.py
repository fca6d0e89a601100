"""What all cells of a comparison share, done once: the data and its parts, the model before, the map, every plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import GuidedError
from ...recipe.recipe import Recipe
from ...system.files import Json, digest, read_json, write_json
from ..data import load_rows, question_of, split
from ..fingerprint import stage_keys
from ..run_folder import hashes, stage_entry
from .arms import ARMS, Arm
from .asked import Asked

if TYPE_CHECKING:
    from ..stages import Run
    from .clock import Stopwatch

NAME = "base"
"""The folder of what is shared, and its file."""

SHARED = ("before", "localize", "select")
"""Stages of a run that are done once for all cells."""

STEPS, FEW = 40, 50
"""Steps, and examples to test and to validate on, of ``--quick``."""

VERSION = 2
"""Of how rows are parted and of what is noted: what another version left is made anew."""

VALIDATED = 100
"""Validation examples at most, as in the test."""


@dataclass(frozen=True)
class Base:
    """What is shared, as it lies on disk.

    Args:
        key: digest of everything that it follows from.
        inputs: digest of the general text that cells are measured on.
        recipe: the recipe of all cells, with its counts spelled out; its folder is the base run's.
        validation: how many questions of the training rows are held back to pick rates on (``parts.apart``).
        before: scores of the model before, on the test.
        loss: of the model before, on general text (nats a token).
        total: parameters of the model.
        task: name and hash of what was localized.
        method: scorer of the map.
        steps: of every cell.
        files: sha256 of each file that cells read, by its path.
        examples: how many rows ``train``, are for ``validation`` and for the ``test``.
        arms: what is known of each way of training that was asked for, by name.
    """

    key: str
    inputs: str
    recipe: Json
    validation: int
    before: dict[str, float]
    loss: float
    total: int
    task: dict[str, str]
    method: str
    steps: int
    files: dict[str, str]
    examples: dict[str, int]
    arms: dict[str, Prepared]

    def save(self, home: Path) -> None:
        write_json(home / f"{NAME}.json", {"kind": "comparison base", "version": VERSION} | asdict(self))

    @classmethod
    def load(cls, home: Path) -> Base | None:
        """What was shared before; None if there is none, or none of this version."""
        try:
            data = read_json(home / f"{NAME}.json", "comparison base", VERSION)
            arms = {name: Prepared(**arm) for name, arm in data["arms"].items()}
            return cls(**{k: v for k, v in data.items() if k not in ("kind", "version", "arms")}, arms=arms)
        except (GuidedError, KeyError, TypeError, AttributeError):
            return None

    def ready(self, arms: Sequence[str], home: Path) -> bool:
        """Whether all of these arms have their plans, and every file is as it was left.

        What kept an arm from its plan may have passed.
        """
        planned = all(arm in self.arms and not self.arms[arm].note for arm in arms)
        return planned and hashes(home, tuple(self.files)) == self.files

    @property
    def settled(self) -> Recipe:
        return Recipe.from_dict(self.recipe)


@dataclass(frozen=True)
class Prepared:
    """A way of training that has its plan.

    Args:
        trainable: parameters.
        rule: the rate that suits it, at which its sweep is centred.
        seconds: what one cell is expected to take.
        localize_seconds: what its map took; 0 if it needs none.
        inputs: digest of the map and the plan that it is made from.
        note: why it cannot be trained; the rest is empty then.
    """

    trainable: int = 0
    rule: float = 0.0
    seconds: float = 0.0
    localize_seconds: float = 0.0
    inputs: str = ""
    note: str = ""


def key(asked: Asked) -> str:
    """A digest of what the shared part, and so every cell, follows from."""
    # Of the stages, evaluating depends on all but names and the control.
    return digest(stage_keys(asked.recipe)["evaluate"], asked.quick, VERSION)


def settle(asked: Asked, folder: Path) -> tuple[Recipe, int]:
    """The recipe of the base run, and how many questions of its training rows are held back for validation.

    A generator draws them on top; of a file a fifth of the questions is held back, whatever the rows of each.
    """
    from ..training import num_steps
    from .parts import apart

    recipe = asked.recipe
    most = FEW if asked.quick else VALIDATED
    drawn = recipe.data.source == "reasoning_gym"
    if drawn:
        rest, test = split(recipe.data, 0, None)
        validation = min(most, test)
        train = rest + validation
    else:
        rows, tests = load_rows(recipe.data, recipe.seed, recipe.train.trainer)
        train, test = len(rows), len(tests)
        validation = min(most, len(set(map(question_of, rows))) // 5)
        rest = len(apart(rows, validation)[0]) if validation else 0
    if not test or not validation:
        raise GuidedError(
            f"compare: data: {train} training and {test} test rows leave none to pick a rate on (give more rows, of "
            "five questions at least)"
        )
    data = recipe.to_dict()
    data["data"] |= {"train": train, "test": min(test, FEW) if asked.quick else test}
    data["output"], data["control"] = str(folder), "none"
    if asked.quick:
        steps = min(num_steps(recipe, rest), STEPS)
        data["train"] |= {"steps": steps, "epochs": None, "warmup_steps": min(recipe.train.warmup_steps, steps // 10)}
    return Recipe.from_dict(data), validation


def prepare(asked: Asked, home: Path, trust: bool, say: Callable[[str], None]) -> Base:
    """Do the shared part in ``home``, or take it as it was left, and write it down."""
    from .. import stages
    from ..pipeline import run as run_recipe
    from ..training import num_steps
    from .clock import Stopwatch
    from .parts import parts, with_loss

    recipe, validation = settle(asked, home / NAME)
    read = stages.Run(recipe, trust)
    recipe = mapped(read, validation)
    results: Json = {}
    for stage in ("before", "select"):
        results |= run_recipe(recipe, until=stage, trust_remote_code=trust, say=say)
    run = stages.Run(recipe, trust)
    run.rows = read.rows
    held_back, test = parts(run, validation)
    watch = Stopwatch(test, len(held_back.rows[1]), _entry(home / NAME, "before")["seconds"])
    arms = {name: _prepared(run, ARMS[name], watch, say) for name in asked.arms}
    before, localized = results["before"], results["localize"]
    base = Base(
        key=key(asked),
        inputs=digest(hashes(home / NAME, (stages.HELD_OUT,))),
        recipe=recipe.to_dict(),
        validation=validation,
        before=with_loss(test, before["scores"], run.model()),
        loss=float(before["retention"]["loss"]),
        total=int(results["select"]["total"]),
        task={"name": str(localized["meta"]["task"]["name"]), "hash": str(localized["hash"])},
        method=str(localized["meta"]["method"]),
        steps=num_steps(recipe, len(test.rows[0])),
        files=_files(home),
        examples={"train": len(test.rows[0]), "validation": len(held_back.rows[1]), "test": len(test.rows[1])},
        arms=arms,
    )
    known = Base.load(home)
    if known is not None and (known.key, known.inputs) == (base.key, base.inputs) and known.ready((), home):
        base = replace(base, arms=known.arms | base.arms)
    base.save(home)
    return base


def mapped(run: Run, validation: int) -> Recipe:
    """The recipe of a run whose map is made from rows that train only."""
    from .parts import apart

    data = run.recipe.to_dict()
    data["localize"]["examples"] = min(run.recipe.localize.examples, apart(run.rows[0], validation)[2])
    return Recipe.from_dict(data)


def _prepared(run: Run, arm: Arm, watch: Stopwatch, say: Callable[[str], None]) -> Prepared:
    """The map and plan of an arm. Those of a mode that is not the recipe's are made in a folder of their own."""
    from ..pipeline import run as run_recipe
    from ..training import learning_rate

    recipe = run.recipe
    if arm.trains_base and recipe.quantization != "none":
        return Prepared(note=f"{recipe.quantization} weights cannot be trained themselves")
    try:
        own = in_mode(run, arm.mode)
        if own is not run:
            run_recipe(own.recipe, until="select", trust_remote_code=run.trust, say=say)
        plan = arm.plan(own, recipe.seed)
    except GuidedError as error:
        return Prepared(note=str(error))
    data = recipe.to_dict()
    data["train"]["learning_rate"] = "auto"
    return Prepared(
        plan.num_parameters,
        learning_rate(Recipe.from_dict(data), plan),
        watch.cell(plan),
        _entry(own.folder, "localize")["seconds"] if arm.needs_map else 0.0,
        digest(hashes(own.folder, ("scores.safetensors", "plan.json"))),
    )


def in_mode(run: Run, mode: str | None) -> Run:
    """The base run, or, where an arm takes a map of another mode, the run that makes that one, beside it."""
    from ..stages import Run

    if mode in (None, run.recipe.train.mode):
        return run
    data = run.recipe.to_dict()
    data["train"] |= {"mode": mode, "rank": None, "mode_options": {}}
    data["output"] = str(run.folder.with_name(f"{NAME}-{mode}"))
    return Run(Recipe.from_dict(data), run.trust)


def _files(home: Path) -> dict[str, str]:
    """What the shared stages left in the base run's folder and in those of other modes, by the path in ``home``."""
    found: dict[str, str] = {}
    for folder in sorted(home.glob(f"{NAME}*")):
        for entry in filter(None, (stage_entry(folder, stage) for stage in SHARED)):
            found |= {f"{folder.name}/{name}": sha for name, sha in entry["files"].items()}
    return found


def _entry(folder: Path, stage: str) -> Json:
    found = stage_entry(folder, stage)
    assert found is not None, "the stage has just been done"
    return found
