"""The stages of a run: functions from what earlier stages wrote to what is to be remembered.

Every stage loads the model afresh, so that none sees what another did to it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..anatomy import Anatomy
from ..errors import GuidedError
from ..models import load_model, load_tokenizer
from ..plan.modes import Mode, make_mode
from ..plan.plan import Plan
from ..recipe.conflicts import too_warm
from ..scorers.catalogue import find
from ..scorers.settings import LocalizeOptions
from ..selection.settings import SelectOptions
from ..system.arrays import read_arrays
from ..task.reader import answered, asked, last_answer_apart, shape_of
from ..task.tokens import answer_tokens, right_answer
from .border import tell_joined
from .data import load_rows
from .fingerprint import stage_keys
from .lengths import fitting
from .measure import HELD_OUT, check_metrics, measure
from .results import After, Reference
from .retained import load_retained
from .window import check_recipe_window

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..recipe.recipe import Recipe
    from ..task.task import Task
    from .results import Chosen, Controlled, Localized, Measured, Trained


class Run:
    """A recipe, its folder, and what all stages need."""

    def __init__(
        self,
        recipe: Recipe,
        trust_remote_code: bool = False,
        folder: Path | None = None,
        keys: dict[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.keys = keys or stage_keys(recipe)
        self.folder = folder or recipe.output_dir
        self.trust = trust_remote_code

    @cached_property
    def way(self) -> Mode[Any]:
        train = self.recipe.train
        return make_mode(train.mode, train.rank, train.mode_options)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.recipe.model, trust_remote_code=self.trust)

    @cached_property
    def rows(self) -> tuple[list[dict], list[dict]]:
        recipe = self.recipe
        rows = load_rows(recipe.data, recipe.seed, recipe.train.trainer)
        if recipe.train.arguments.get("completion_only_loss"):
            rows = [last_answer_apart(row) for row in rows[0]], [last_answer_apart(row) for row in rows[1]]
        if any(isinstance(value, list) for value in rows[0][0].values()) and not self.tokenizer.chat_template:
            raise GuidedError(f"data: {recipe.model!r} has no chat template for messages (write prompts as text)")
        length = recipe.train.max_length
        train = fitting(rows[0], self.tokenizer, length, "train")
        test = fitting(rows[1], self.tokenizer, length, "test")
        if recipe.train.reward is None:
            tell_joined(train, self.tokenizer)
        return train, test

    def model(self) -> PreTrainedModel:
        """Load the base model afresh."""
        gc.collect()
        recipe = self.recipe
        return load_model(
            recipe.model, dtype=recipe.dtype, quantization=recipe.quantization, trust_remote_code=self.trust
        )

    def task(self, rows: list[dict], batch_size: int, name: str = "") -> Task:
        from ..task.task import Task

        return Task.from_dataset(
            rows,
            self.tokenizer,
            max_length=self.recipe.train.max_length,
            batch_size=batch_size,
            beta=self.recipe.train.beta,
            name=name or self.recipe.data.name or Path(str(self.recipe.data.path)).stem,
        )

    def question(self, row: dict) -> dict:
        """A row as a model is asked it: a prompt, with the right answer as it is learned. What is rewarded is asked as
        chat asks, and the bare text is right."""
        if self.recipe.train.reward is None:
            return {**row, "prompt": asked(row)}
        return {"prompt": asked(row), "completion": answered(row)}

    @property
    def expected(self) -> list[str]:
        """The right answers to the test prompts."""
        return [right_answer(self.question(row), self.tokenizer) for row in self.rows[1]]

    @cached_property
    def answer_length(self) -> int:
        """Tokens of an answer: as asked, or as the right ones need."""
        from ..task.answers import answer_length

        wanted = self.recipe.evaluate.max_new_tokens
        limit = self.recipe.train.max_length
        lengths = (answer_tokens(self.question(row), self.tokenizer) for row in self.rows[1])
        return answer_length(lengths, limit, None if isinstance(wanted, str) else wanted)


def before(run: Run) -> Measured:
    """Measure the base model, and sample the text that retention is measured on."""
    # The rows first: what is wrong with them is told before the model is loaded, and both before anything is removed.
    rows = run.rows[1]
    check_metrics(run, rows)
    _check_training(run)
    model = run.model()
    check_recipe_window(run.recipe, run.rows, run.tokenizer, run.answer_length, model.config)
    _rehearse(run, model)
    (run.folder / HELD_OUT).unlink(missing_ok=True)
    return measure(run, rows, model, None)


def _check_training(run: Run) -> None:
    """Raise GuidedError for what only the training would stumble over."""
    from .trainers import check_table
    from .training import num_steps

    check_table(run.recipe.train.trainer, run.rows[0])
    if told := too_warm(run.recipe.train.warmup_steps, num_steps(run.recipe, len(run.rows[0]))):
        raise GuidedError(f"train.warmup_steps: {told}")


def localize(run: Run) -> Localized:
    """Score the components and write the map."""
    settings = run.recipe.localize
    task = run.task(run.rows[0][: settings.examples], settings.batch_size)
    seed, length = run.recipe.seed, run.recipe.train.max_length
    retain = load_retained(settings.retain, run.tokenizer, length, settings.batch_size, seed)
    # All that the model has: of some families heads and neurons are not known.
    kinds = _kinds(run) if settings.method == "ablation" else None
    asked = LocalizeOptions(settings.method, retain, kinds, seed=seed, options=settings.options)
    scores = run.way.localize(run.model(), task, budget=run.recipe.select.budget, **asked.arguments())
    scores.save(run.folder / "scores.safetensors")
    return {"meta": scores.meta, "hash": task.hash, "form": shape_of(run.rows[0][0]), "sizes": scores.sizes}


def _kinds(run: Run) -> tuple[str, ...]:
    """Score all kinds there are, for the picture; exact ablation only those that may be chosen, for the time."""
    method = run.recipe.localize.method
    return tuple(run.recipe.select.kinds) if method == "ablation" else find(method).kinds


def choose(run: Run) -> Chosen:
    """Spend the budget and write the selection and the plan."""
    return _write(planned(run, run.recipe.select.strategy, run.recipe.seed), run.folder)


def planned(run: Run, strategy: str, seed: int) -> Plan:
    """The plan that a recipe makes of the map in the run's folder, by its own strategy or another."""
    return _chosen(run, run.way.read_map(run.folder / "scores.safetensors"), strategy, seed)


def _rehearse(run: Run, model: nn.Module) -> None:
    """Raise GuidedError for a budget, kinds or layers that this model does not have, or a mode that cannot train it."""
    anatomy = Anatomy.of(model)
    if type(run.way).localize is Mode.localize:
        _chosen(run, find("random").load()(None, anatomy, kinds=_kinds(run)), "random", 0)


CHOICE = ("selection.json", "selection.safetensors", "plan.json", "plan.safetensors")
"""What ``choose`` writes: arrays of directions only."""


def _write(plan: Plan, folder: Path) -> Chosen:
    selection: Any = plan.selection
    for name in CHOICE:
        # A choice of components writes no arrays: those of another one must not lie beside it.
        (folder / name).unlink(missing_ok=True)
    selection.save(folder / "selection.json")
    plan.save(folder / "plan.json")
    return {
        "counts": selection.counts(),
        "trainable": plan.num_parameters,
        "total": selection.anatomy.num_parameters,
        "modules": len({part.module for part in selection.slices()}),
    }


def _chosen(run: Run, scores: Any, strategy: str, seed: int) -> Plan:
    settings, train = run.recipe.select, run.recipe.train
    asked = SelectOptions(settings.budget, settings.kinds, strategy, seed, settings.first_layer)
    selection = run.way.choose(scores, **asked.arguments())
    return Plan(selection, train.mode, train.rank, train.lr_scale, train.mode_options)


def train(run: Run, folder: Path | None = None) -> Trained:
    """Train the plan of a folder and save the result beside it."""
    from .training import train as fit

    folder = folder or run.folder
    plan = Plan.load(folder / "plan.json")
    key = run.keys["train"]
    return fit(run.recipe, plan, run.rows[0], probe(run), run.model(), run.tokenizer, folder, key)


def after(run: Run, folder: Path | None = None) -> After:
    """Measure what was saved, not what is in memory: loaded from disk like any user would."""
    import torch

    from .training import probe_logits

    folder = folder or run.folder
    model, reference = tuned(run, folder)
    kept = torch.from_numpy(read_arrays(folder / "probe.safetensors")["logits"])
    difference = float((probe_logits(model, probe(run)) - kept).abs().max())
    found = measure(run, run.rows[1], model, reference)
    return After(**found, reload={"max_difference": difference})


def probe(run: Run) -> Task:
    """A batch to compare a reloaded model on."""
    return run.task((run.rows[1] or run.rows[0])[:4], batch_size=4)


def tuned(run: Run, folder: Path) -> tuple[nn.Module, Reference]:
    """The trained model, and a way to ask the base."""
    if (folder / "adapter" / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(run.model(), folder / "adapter").eval()

        @contextlib.contextmanager
        def base() -> Iterator[nn.Module]:
            with model.disable_adapter():
                yield model

        return model, base
    plain = run.model()
    return load_model(str(folder / "adapter"), dtype=run.recipe.dtype), lambda: contextlib.nullcontext(plain)


def control(run: Run) -> Controlled:
    """Choose at random with the recipe's budget and kinds, train and measure that: the control."""
    folder = run.folder / "control"
    # Another seed than the selection's: a recipe that itself draws at random gets a second draw.
    chosen = _write(planned(run, "random", run.recipe.seed + 1), folder)
    trained = train(run, folder)
    return {"plan": chosen, "train": trained, "after": after(run, folder)}
