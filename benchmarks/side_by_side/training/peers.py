"""What guided fine-tuning is compared with: stock PEFT methods, and published ones that train parts in turn."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def lora(modules: str | list[str], **options: Any) -> Callable[[Any, int, int], Any]:
    """LoRA (arXiv 2106.09685) of the rank that comes nearest to a number of parameters, at least 1; alpha is 2 r.

    PEFT's ``use_rslora`` (arXiv 2312.03732), ``use_dora`` (arXiv 2402.09353) and ``init_lora_weights`` are options:
    ``pissa`` (arXiv 2404.02948), ``olora`` (arXiv 2406.01775), ``mica`` (arXiv 2604.01694).
    """

    def change(model: PreTrainedModel, parameters: int, seed: int) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        rank = rank_for(model, modules, parameters)
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM", **options)
        return get_peft_model(model, config)

    return change


def shira(model: PreTrainedModel, parameters: int, seed: int) -> Any:
    """SHiRA (arXiv 2406.13175): single weights drawn at random, ``r (m + n)`` of each matrix."""
    from peft import ShiraConfig, get_peft_model

    names = sorted({name.split(".")[-1] for name, _ in linear(model)})
    config = ShiraConfig(
        r=rank_for(model, names, parameters), target_modules=names, random_seed=seed, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def oft(model: PreTrainedModel, parameters: int, seed: int) -> Any:
    """OFT (arXiv 2306.07280): inputs turned by blocks of rotations, as large as a number of parameters buys."""
    import torch
    from peft import OFTConfig, get_peft_model

    torch.manual_seed(seed)
    inputs = [module.in_features for _, module in linear(model)]
    # A block of size b has b (b - 1) / 2 numbers, and must divide every layer's input.
    sizes = [b for b in range(2, min(inputs) + 1) if all(i % b == 0 for i in inputs)]
    size = min(sizes, key=lambda b: abs(sum(i // b * b * (b - 1) // 2 for i in inputs) - parameters))
    config = OFTConfig(r=0, oft_block_size=size, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def ia3(model: PreTrainedModel, parameters: int, seed: int) -> Any:
    """IA3 (arXiv 2205.05638): a scale for each output of k, v and each input of the MLP's last projection."""
    from peft import IA3Config, get_peft_model

    return get_peft_model(model, IA3Config(task_type="CAUSAL_LM"))


def linear(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """The linear layers inside the blocks."""
    from torch import nn

    prefix = Anatomy.of(model).prefix
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(f"{prefix}.")]


def rank_for(model: PreTrainedModel, modules: str | list[str], parameters: int) -> int:
    """The rank of a LoRA on these layers that comes nearest to a number of parameters, at least 1."""
    one = sum(
        m.in_features + m.out_features
        for name, m in linear(model)
        if isinstance(modules, str) or name.split(".")[-1] in modules
    )
    return max(1, round(parameters / one))


class _Rotating(TrainerCallback, ABC):
    """Trains another set of parameters every ``every`` steps; forgets the optimizer's state of what rests."""

    every = 0

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        self.layers = Anatomy.of(model).prefix
        self.rng = random.Random(seed)

    @abstractmethod
    def chosen(self, model: PreTrainedModel) -> set[str]: ...

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step and (not self.every or state.global_step % self.every):
            return
        chosen = self.chosen(model)
        optimizer = kwargs["optimizer"]
        # accelerate wraps the optimizer; the state lies inside.
        states = getattr(optimizer, "optimizer", optimizer).state
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
            if name not in chosen:
                parameter.grad = None
                states.pop(parameter, None)

    def on_train_end(self, args: object, state: object, control: object, model: Any = None, **kwargs: Any) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)


class Lisa(_Rotating):
    """LISA (arXiv 2403.17919): embeddings, final norm and head always; two layers drawn anew every 20 steps."""

    every = 20
    at_once = 2

    def chosen(self, model: PreTrainedModel) -> set[str]:
        names = [name for name, _ in model.named_parameters()]
        layers = {layer for name in names if (layer := self._layer(name)) is not None}
        drawn = self.rng.sample(sorted(layers), self.at_once)
        return {n for n in names if self._layer(n) in (None, *drawn)}

    def _layer(self, name: str) -> int | None:
        inside = name.removeprefix(f"{self.layers}.")
        return None if inside == name else int(inside.split(".")[0])


class HalfFineTuning(_Rotating):
    """HFT (arXiv 2404.18466): in every layer a random half of attention's matrices, of the MLP's and of the norms.

    Of the MLP's three matrices two and one in turn. Embeddings, final norm and head train. One draw a run.
    """

    def chosen(self, model: PreTrainedModel) -> set[str]:
        groups: dict[tuple[str, str], list[str]] = {}
        kept = set()
        for name, _ in model.named_parameters():
            inside = name.removeprefix(f"{self.layers}.")
            if inside == name:
                kept.add(name)
            else:
                layer, part = inside.split(".")[:2]
                # The two norms of a layer lie beside each other, not in a module.
                groups.setdefault((layer, "norm" if "norm" in part else part), []).append(name)
        extra = 0
        for members in groups.values():
            half, odd = divmod(len(members), 2)
            extra += odd
            kept |= set(self.rng.sample(members, half + (odd and extra % 2)))
        return kept


def badam(model: PreTrainedModel, rate: float) -> Any:
    """BAdam (arXiv 2404.02827) from its authors' package: one layer at a time, from the last to the first.

    Raises GuidedError if the package is not installed.
    """
    import torch

    try:
        from badam import BlockOptimizer
    except ImportError as error:
        raise GuidedError(f"badam: cannot be used here ({error}; install the extra: pip install badam)") from None
    inner = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    return BlockOptimizer(inner, named_parameters_list=list(model.named_parameters()), switch_block_every=10, verbose=0)
