"""What a training step keeps in memory: weights, gradients, optimizer state and activations."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..anatomy import Anatomy, base_model
from ..errors import GuidedError
from .dry_run import saved_bytes
from .flops import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Storage:
    """How the weights of the projections are kept.

    Args:
        dtype: of everything else, and of the activations.
        bytes_per_weight: of a quantized projection; None: as ``dtype``.
        bytes_per_row: scales that each of its rows has beside that.
    """

    dtype: torch.dtype
    bytes_per_weight: float | None = None
    bytes_per_row: int = 0


STORAGES = {
    "float32": Storage(torch.float32),
    "bfloat16": Storage(torch.bfloat16),
    # bitsandbytes: half a byte and a float32 scale per block of 64; one byte and a float32 scale per row.
    "nf4": Storage(torch.bfloat16, 0.5 + 4 / 64),
    "int8": Storage(torch.bfloat16, 1, 4),
}
LOGIT_BYTES = 3 * 4
"""Per logit, in float32: its log-probability, and two gradients while the loss is propagated back."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one training step with AdamW.

    Args:
        trained: trained parameters.
        weights: of the model, the adapter included.
        gradients, optimizer: of the trained parameters, in their dtype (adapters are float32, whatever the base).
        activations: alive when back-propagation begins: what autograd saved, log-probabilities and their gradients.
        peak: at most at any time of a step.
        file: of what is saved: the adapter, or the whole model where its own weights are trained.
    """

    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    file: int


@contextlib.contextmanager
def on_meta(config: PreTrainedConfig, dtype: torch.dtype, name: str = "model") -> Iterator[PreTrainedModel]:
    """A causal LM of a configuration on the meta device; what is attached to it inside the block is there too."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False).train()
        except Exception as error:
            # Whatever it is, the configuration is all that it can be due to.
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise GuidedError(f"model: {name!r} has a configuration that makes no causal LM ({reason})") from None
        yield model


def footprint(
    model: nn.Module, anatomy: Anatomy, first_layer: int | None, batch: Batch, storage: Storage, checkpointing: bool
) -> Footprint:
    """Measure a model on the meta device, with whatever is attached to it. The model is left on fake tensors.

    Args:
        first_layer: the first layer with anything trained; None: none.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(map(_bytes, trained))
    # AdamW keeps two tensors like each parameter, and a float32 step count.
    optimizer = 2 * gradients + 4 * len(trained)
    weights = sum(map(_bytes, model.parameters())) + _quantized(anatomy, storage)
    file = adapter_bytes(model) if hasattr(model, "peft_config") else weights
    base: Any = base_model(model)
    embedding, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    logits = batch.labels * len(head) * LOGIT_BYTES
    # A tied embedding gets a gradient from either end, and then their sum.
    waiting = 2 * _bytes(head) if head is embedding and head.requires_grad else 0
    layers = saved_bytes(model, batch)
    if checkpointing and first_layer is not None:
        alike = anatomy.num_layers - first_layer
        layers = layers // alike + alike * batch.tokens * embedding.shape[1] * storage.dtype.itemsize
    peak = weights + optimizer + max(layers + logits, gradients + waiting)
    return Footprint(sum(p.numel() for p in trained), weights, gradients, optimizer, layers + logits, peak, file)


def adapter_bytes(model: nn.Module) -> int:
    """Size of the file that ``save_pretrained`` writes for an adapter: its tensors and a header that names them."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # safetensors puts the widest dtype first, and pads the header to eight bytes.
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        tensor = tensors[name]
        start, end = end, end + _bytes(tensor)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    return 8 + -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8 + end


_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32"}


def _quantized(anatomy: Anatomy, storage: Storage) -> int:
    """What quantized projections take more (or less) than in the model's dtype."""
    if storage.bytes_per_weight is None:
        return 0
    # Only linear layers are quantized: experts, which are parameters, stay as they are.
    shapes = [shape for name, shape in anatomy.shapes.items() if not anatomy.family.of_experts(name)]
    weights = sum(map(math.prod, shapes))
    scales = sum(shape[anatomy.rows_axis] for shape in shapes) * storage.bytes_per_row
    per_layer = round(weights * (storage.bytes_per_weight - storage.dtype.itemsize)) + scales
    return anatomy.num_layers * per_layer


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
