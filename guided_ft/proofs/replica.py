"""A tiny random model of the same class and settings as a given one: what the proofs are run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import GuidedError
from .shrink import VOCAB, shrink

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def replica(base: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Return a tiny random copy of a model in float32, on the CPU, in eval mode. Random numbers stay as they were.

    Raises:
        GuidedError: if the model's class cannot be built so small.
    """
    return _build(type(base), base.config, seed)


def replica_of_config(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Return a tiny random model of a config, as ``replica`` does of a model that is at hand."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            listed = auto._model_mapping[type(config)]
            found = listed[0] if isinstance(listed, tuple) else listed
            assert found is not None
            # Some wrappers' causal model is their text model.
            own = isinstance(config, found.config_class)
            return _build(found, config if own else config.get_text_config(), seed)
    raise GuidedError(f"{config.model_type}: no causal language model is known for this config")


def _build(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    tiny = shrink(config)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        with torch.device("cpu"):
            model = model_class._from_config(tiny, attn_implementation="eager", dtype=torch.float32).eval()
        roughen(model)
    except GuidedError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise GuidedError(
            f"{config.model_type}: a tiny copy cannot be built ({type(error).__name__}: {words})"
        ) from None
    finally:
        torch.set_rng_state(state)
    return model


@torch.no_grad()
def roughen(model: nn.Module) -> None:
    """Give every parameter numbers that are seen: matrices of good size, biases off zero, norms off one."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not isinstance(module, nn.Embedding):
                parameter.normal_(0, 0.2)
            else:
                parameter.normal_(0, 0.5)
        for buffer in module.buffers(recurse=False):
            if buffer.shape == (1,) and buffer.is_floating_point():
                # What a layer is scaled by at its end is learned, too.
                buffer.mul_(0.8)


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random token ids ``[rows, length]`` without the special ones."""
    return torch.randint(3, VOCAB - 3, (rows, length), generator=torch.Generator().manual_seed(seed))
