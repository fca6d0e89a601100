"""``Request``: what a plan is made from where none is given, and the making."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..plan.modes import make_mode
from ..plan.plan import Plan, PlanOptions
from ..scorers.settings import LocalizeOptions
from ..selection.scoremap import ScoreMap
from ..selection.settings import SelectOptions
from ..slice.fingerprint import fingerprint
from ..system import processes
from ..system.files import digest
from ..task.given import Given
from ..task.task import Task
from .asked import as_task
from .resume import keep, kept


@dataclass(frozen=True)
class Request:
    """What to localize for, what to spend the map on, and the mode to train the choice in."""

    task: Task | Given
    localize: LocalizeOptions
    select: SelectOptions
    plan: PlanOptions

    def read(self, args: TrainingArguments, tokenizer: PreTrainedTokenizerBase | None) -> Request:
        """The request with Tasks in place of its data sets, read by the trainer's own tokenizer."""
        retain = as_task(self.localize.retain, "retain", args, tokenizer)
        return replace(
            self, task=as_task(self.task, "task", args, tokenizer), localize=replace(self.localize, retain=retain)
        )

    def make(self, model: nn.Module, folder: Path, *, write: bool) -> tuple[Plan, ScoreMap | None]:
        """Localize and select; or take what the same request found before, so that a resumed run trains the same.

        Returns:
            The plan, and the map that it was made from if it was made here.
        """
        assert isinstance(self.task, Task)
        asked = [self.localize.identity(), self.select.arguments(), self.plan]
        request = digest(self.task.hash, asked, fingerprint(model))
        # The first process decides for all: it may have written its plan before another one comes to look.
        found = kept(folder, request)
        firsts = processes.same((found.to_dict(), found.arrays) if found else None)
        if firsts is not None:
            return Plan.from_dict(*firsts), None
        way = make_mode(self.plan["mode"], self.plan["rank"], self.plan["options"])
        scores = way.localize(model, self.task, budget=self.select.budget, **self.localize.arguments())
        plan = Plan(way.choose(scores, **self.select.arguments()), **self.plan)
        # Every process trains what the first one chose: rounding may order close scores differently.
        plan = Plan.from_dict(*processes.same((plan.to_dict(), plan.arrays)))
        if write:
            scores.save(folder / "scores.safetensors")
            keep(plan, folder, request)
        return plan, scores
