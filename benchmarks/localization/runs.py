"""What is measured: the plain pass, captum, and every method with its variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from guided_ft import Anatomy, Task, localize
from guided_ft.scorers import catalogue
from guided_ft.scorers.watch.tap import Tap
from guided_ft.system.files import Json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

VARIANTS: dict[str, Json] = {
    "attribution mean": {"method": "attribution", "replace": "mean"},
    "attribution corrupted": {"method": "attribution", "replace": "corrupted"},
    "attribution squared": {"method": "attribution", "squared": True},
    "integrated_gradients corrupted": {"method": "integrated_gradients", "baseline": "corrupted"},
    "eap corrupted": {"method": "eap", "replace": "corrupted"},
    "gradient_norm relative": {"method": "gradient_norm", "relative": True},
    "activation small": {"method": "activation", "small": True},
    "activation written": {"method": "activation", "written": True},
    "gates l0": {"method": "gates", "penalty": "l0"},
}
"""More ways to ask a method, beside its defaults."""

TOGETHER = ("attribution", "fisher", "activation", "wanda", "block_influence", "direct_logit")
"""Methods whose shared cost is measured too."""

EXACT = ("ablation of all heads", "attribution, verify=60")


def plain(model: nn.Module, task: Task) -> None:
    """The pass that everything is measured against."""
    with Tap(model, start_graph=True):
        for batch in task.batches():
            task.loss(task.quantity(model, batch)).sum().backward()


def forward(model: nn.Module, task: Task) -> None:
    """The forward half of the plain pass."""
    with Tap(model), torch.no_grad():
        for batch in task.batches():
            task.quantity(model, batch)


def captum_all(model: PreTrainedModel, task: Task) -> None:
    """Captum's one-pass attribution of all heads and neurons."""
    from captum.attr import LayerGradientXActivation

    anatomy = Anatomy.of(model)
    modules = [
        model.get_submodule(f(i)) for f in (anatomy.out_module, anatomy.down_module) for i in range(anatomy.num_layers)
    ]
    with Tap(model):
        for batch in task.batches():
            embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_(True)

            def loss(inputs: torch.Tensor, batch: Any = batch) -> torch.Tensor:
                labels = batch["labels"][:, 1:]
                columns = (labels != -100).any(0).nonzero()[:, 0]
                out = model(
                    inputs_embeds=inputs,
                    attention_mask=batch["attention_mask"],
                    use_cache=False,
                    logits_to_keep=columns,
                )
                asked = labels[:, columns]
                nll = torch.nn.functional.cross_entropy(
                    out.logits.transpose(1, 2), asked, ignore_index=-100, reduction="none"
                )
                return nll.sum(1) / (asked != -100).sum(1)

            LayerGradientXActivation(loss, modules).attribute(embeddings, attribute_to_layer_input=True)


def methods(against: Task) -> dict[str, Json]:
    """All methods and their variants, with the second set where one is needed."""
    wanted: dict[str, Json] = {name: {} for name in catalogue.CATALOGUE if name != "ablation"} | VARIANTS
    found = {}
    for label, options in wanted.items():
        needs = catalogue.find(options.get("method", label)).compares
        found[label] = {**options, **({"retain": against} if needs else {})}
    return found


def runs(model: PreTrainedModel, task: Task, against: Task) -> dict[str, Callable[[], Any]]:
    """What to measure, by name."""
    found: dict[str, Callable[[], Any]] = {"forward alone": lambda: forward(model, task)}
    found |= {"captum LayerGradientXActivation": lambda: captum_all(model, task)}
    for label, options in methods(against).items():
        name, rest = options.get("method", label), {k: v for k, v in options.items() if k != "method"}
        found[label] = lambda name=name, rest=rest: localize(model, task, name, **{"retain": None, **rest})  # type: ignore[misc]
    found["together: " + ", ".join(TOGETHER)] = lambda: localize(model, task, methods=TOGETHER, retain=None)
    found[EXACT[0]] = lambda: localize(model, task, "ablation", None, ("head",))
    found[EXACT[1]] = lambda: localize(model, task, "attribution", None, ("head",), verify=60)
    return found
