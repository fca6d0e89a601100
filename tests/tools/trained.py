"""Folders of runs that look trained: a tiny model with an adapter of random numbers, saved as a run saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
from tiny_run import recipe

from guided_ft import Anatomy, Plan, Selection
from guided_ft.models import load_model
from guided_ft.pipeline.training import _save
from guided_ft.use.finished import Finished

CHOSEN = "L0.H0 L0.H1 L0.N3 L1.N5"


def trained(folder: Path, mode: str = "slice") -> tuple[Finished, torch.nn.Module]:
    """The run in ``folder/run``, and the model that was saved."""
    asked = recipe(folder, train={"mode": mode}, **({"select": {"budget": "40%"}} if mode == "freeze" else {}))
    base = load_model(asked.model)
    plan = Plan(Selection.parse(CHOSEN, Anatomy.of(base)), mode)
    model: Any = plan.attach(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    home = Path(str(asked.output))
    asked.save(home / "recipe.yaml")
    plan.save(home / "plan.json")
    _save(model.eval(), tiny.tokenizer(), home / "adapter", plan, asked.model)
    return Finished(home), model
