"""``estimate``: what each way of training a model would need, from its configuration alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError, pick
from ..recipe.recipe import Recipe, shipped
from ..selection.budget import parse_budget
from ..selection.settings import SelectOptions
from ..system.files import Json
from .flops import Batch, active_parameters, prefix_bytes, step_flops
from .ways import ways

if TYPE_CHECKING:
    from .footprint import Footprint, Storage

ANY_SIZE = 10**15
"""Above every real model: a budget is read before the model's size is known."""

ROWS = {"dpo": 2}
"""Rows of a step for each of its examples, by trainer: the chosen and the rejected answer pass together. Else one."""

_BESIDE = {
    "dpo": "Of DPO the reference's pass is not counted, nor the second copy of a model whose own weights train.",
    "grpo": "Of GRPO neither the answers that are generated are counted nor the pass of the reference.",
}
"""What a trainer needs beside its steps, and is not worked out."""

LARGEST = 10**8
"""Above every real step, and torch can still count the bytes of what it holds."""


@dataclass(frozen=True)
class Cost:
    """One way of training.

    Args:
        key, name: of the way, as in ``ways``.
        memory: its bytes; None if it cannot be done.
        step: cost of one step, relative to full fine-tuning.
        cached_step: the same with a prefix cache; None where there are no layers below the first trained one.
        note: why it cannot be done.
    """

    key: str
    name: str
    memory: Footprint | None = None
    step: float | None = None
    cached_step: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Estimate:
    """What ``estimate`` found; ``str`` of it is a table.

    Args:
        model: as it was asked for.
        parameters: of the model.
        active: of them, those that a token meets; fewer than all in a mixture of experts.
        budget: in parameters.
        dtype: of the base.
        trainer: ``sft``, ``dpo`` or ``grpo``.
        batch: sizes of one step; two rows for each pair of DPO.
        checkpointing: whether activations are computed twice instead of kept.
        cache_bytes: of a prefix cache, per 1,000 examples.
        rows: one per way of training.
    """

    model: str
    parameters: int
    active: int
    budget: int
    dtype: str
    trainer: str
    batch: Batch
    checkpointing: bool
    cache_bytes: int
    rows: tuple[Cost, ...]

    def to_dict(self) -> Json:
        """Plain JSON data."""
        return {"kind": "estimate", "version": 1} | asdict(self)

    def __str__(self) -> str:
        batch = self.batch
        width = max(len(cost.name) for cost in self.rows)
        met = f" ({self.active:,} of them for a token)" if self.active < self.parameters else ""
        each = ROWS.get(self.trainer, 1)
        pairs = f"{batch.rows // each} pairs, " if each == 2 else ""
        head = (
            f"{self.model}: {self.parameters:,} parameters{met} in {self.dtype}; budget {self.budget:,} "
            f"({self.budget / self.parameters:.3%}); steps of {pairs}{batch.rows} x {batch.length} tokens, "
            f"{batch.labels:,} labelled{', gradient checkpointing' * self.checkpointing}"
        )
        lines = [head, "", " " * width + "".join(f"{title:>{size}}" for title, size in _COLUMNS)]
        lines += [(f"{cost.name:<{width}}" + "".join(_cells(cost, self.parameters))).rstrip() for cost in self.rows]
        lines += ["", *(f"{cost.name}: {cost.note}" for cost in self.rows if cost.note), *self._assumptions()]
        return "\n".join(lines)

    def _assumptions(self) -> Iterator[str]:
        yield "Memory of one step of AdamW, without the libraries; adapters are float32. Activations: what autograd"
        yield "keeps on CPU (sdpa attention), and float32 log-probabilities and two gradients of them where labels are."
        yield "All of it in use: what an allocator keeps of freed memory comes on top (glibc, SmolLM2-135M: 6 to 27 %)."
        yield "Step: multiplications, relative to full fine-tuning; cached: with a prefix cache, from the second epoch."
        size = readable(self.cache_bytes)
        if self.active < self.parameters:
            yield "Experts are taken to get equal shares of the tokens; they are not quantized."
        if self.trainer in _BESIDE:
            yield _BESIDE[self.trainer]
        yield f"The cache keeps {size} per 1,000 examples of {self.batch.length} tokens."


_COLUMNS = (
    ("trained", 16),
    ("share", 9),
    ("weights", 10),
    ("gradients", 11),
    ("optimizer", 11),
    ("activations", 13),
    ("peak", 10),
    ("file", 10),
    ("step", 7),
    ("cached", 8),
)


def estimate(
    target: str,
    budget: str | float | int | None = None,
    *,
    dtype: str | None = None,
    rows: int | None = None,
    length: int | None = None,
    labelled: float = 1.0,
    rank: int = 8,
    checkpointing: bool = False,
) -> Estimate:
    """Work out memory, file size and relative cost of full fine-tuning, LoRA, slices, freezing and directions.

    Nothing is downloaded but a configuration, and no weights are made: the model is built on the meta device, and what
    its forward pass keeps for the backward pass is found on tensors without content.

    Args:
        target: a folder, a ``config.json``, an id of the Hub, an embedded model; or a recipe, which then gives the
            defaults of what follows.
        budget: parameters to train, as in ``select``.
        dtype: of the base's weights: ``float32``, ``bfloat16``, ``nf4`` or ``int8``.
        rows, length: examples per forward pass (of a DPO recipe: pairs), and tokens in each.
        labelled: share of tokens with a label, above 0 and at most 1.
        rank: of the LoRA to compare with.
        checkpointing: with gradient checkpointing.

    Raises:
        GuidedError: for an unknown model, architecture, budget or dtype, and for sizes that no step has.
    """
    if not 0 < labelled <= 1:
        raise GuidedError(f"labelled: {labelled} is not a share above 0 and at most 1 (write 0.3)")
    others, trainer = None, "sft"
    if target in shipped() or target.endswith((".yaml", ".yml")):
        recipe = Recipe.load(target)
        name, settings = recipe.model, recipe.train
        trainer = settings.trainer
        budget = recipe.select.budget if budget is None else budget
        if dtype is None and recipe.quantization != "none":
            dtype, others = recipe.quantization, recipe.dtype
        dtype = dtype or recipe.dtype
        rows, length = rows or settings.batch_size, length or settings.max_length
        checkpointing = checkpointing or settings.gradient_checkpointing
    else:
        name, dtype = target, dtype or "float32"
        budget = SelectOptions.budget if budget is None else budget
    batch = Batch((rows or 8) * ROWS.get(trainer, 1), length or 128, labelled)
    for what, value in (("batch times length", batch.tokens), ("rank", rank)):
        if value > LARGEST:
            raise GuidedError(f"{what}: {value:,} is more than the {LARGEST:,} that can be worked out (lower it)")
    parse_budget(budget, ANY_SIZE)
    # From here on with torch: mistakes above are told in a moment.
    from .footprint import STORAGES

    storage = pick(STORAGES, dtype, "dtype")
    if others is not None:
        # A recipe says what everything else has beside quantized projections.
        storage = replace(storage, dtype=STORAGES[others].dtype)
    with warnings.catch_warnings():
        # Settings that the libraries pass to each other under their old names; no user can mend them.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft")
        return _estimate(name, budget, dtype, storage, trainer, batch, rank, checkpointing)


def _estimate(
    name: str, budget: Any, dtype: str, storage: Storage, trainer: str, batch: Batch, rank: int, checkpointing: bool
) -> Estimate:
    from ..anatomy import Anatomy
    from ..models import load_config
    from .footprint import footprint, on_meta

    config = load_config(name)
    layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
    if layers < 1:
        raise GuidedError(f"model: {name!r} has a configuration without layers (num_hidden_layers is {layers})")
    with on_meta(config, storage.dtype, name) as plain:
        anatomy = Anatomy.of(plain)
        if anatomy.family.linear:
            raise GuidedError(f"model: {name!r} is of a family without a row, what whose steps cost is not known here")
        if not anatomy.layers_alike:
            raise GuidedError(
                f"model: {name!r} has layers that are not alike, which cannot be worked out from one of them"
            )
        output = plain.get_output_embeddings().weight
        head, hidden = output.numel(), output.shape[1]
    active = getattr(config.get_text_config(), "num_experts_per_tok", 0) if anatomy.num_experts else 0
    limit = parse_budget(budget, anatomy.num_parameters)
    full = None
    found: list[Cost] = []
    for way in ways(anatomy, limit, rank):
        with on_meta(config, storage.dtype) as plain:
            try:
                model = way.attach(plain)
            except GuidedError as error:
                found.append(Cost(way.key, way.name, note=str(error)))
                continue
            work = way.work()
            cost = step_flops(anatomy, head, work, batch, active=active, checkpointing=checkpointing)
            # The first way: full fine-tuning.
            full = full or cost
            if way.in_place and storage.bytes_per_weight is not None:
                found.append(Cost(way.key, way.name, note=f"{dtype} weights cannot be trained themselves"))
                continue
            memory = footprint(model, anatomy, work.first_layer, batch, storage, checkpointing)
        cached = step_flops(anatomy, head, work, batch, active=active, cached=True, checkpointing=checkpointing)
        found.append(Cost(way.key, way.name, memory, cost / full, cached / full if work.first_layer else None))
    cache = prefix_bytes(hidden, storage.dtype.itemsize, batch.length) * ROWS.get(trainer, 1)
    met = active_parameters(anatomy, active)
    return Estimate(name, anatomy.num_parameters, met, limit, dtype, trainer, batch, checkpointing, cache, tuple(found))


def readable(size: int) -> str:
    """Bytes in words: ``538 MB`` (of 10^6 bytes)."""
    value, units = float(size), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 999.5 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"


def _cells(cost: Cost, parameters: int) -> Iterator[str]:
    memory = cost.memory
    texts = ["-"] * len(_COLUMNS)
    if memory is not None:
        sizes = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.peak, memory.file)
        costs = (f"{value:.2f}" if value is not None else "-" for value in (cost.step, cost.cached_step))
        texts = [f"{memory.trained:,}", f"{memory.trained / parameters:.3%}", *map(readable, sizes), *costs]
    for text, (_, size) in zip(texts, _COLUMNS, strict=True):
        yield f"{text:>{size}}"
