"""The layer that adds trained neurons to the frozen experts of a mixture of experts.

Shapes: ``x [tokens, hidden]``, ``top_k_index`` and ``top_k_weights [tokens, k]``, ``n`` chosen neurons of all experts
together; an expert has ``size`` neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import GuidedError
from .config import pack_index
from .expert_layout import hidden_of, rows_of, side_by_side, size_of, weights_of
from .layer import SliceLayer, base_of, broken


class ExpertsDelta(nn.Module):
    """Compact additive change of the weights of some neurons; zero at birth.

    Args:
        index: increasing numbers ``[n]`` of the neurons: neuron ``i`` of expert ``e`` has number ``e * size + i``.
        size: neurons in each expert.
        hidden: width of the residual stream.
        dtype: float32, whatever the base (float64 for a float64 base).
    """

    index: torch.Tensor

    def __init__(self, index: list[int], size: int, hidden: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64, device=device))
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.up = nn.Parameter(torch.zeros(len(index), 2, hidden, **options))
        """Change of each neuron's gate row and up row."""
        self.down = nn.Parameter(torch.zeros(len(index), hidden, **options))
        """Change of each neuron's down column."""
        # Known on the host, so that no forward waits for it, and a model on the meta device can have adapters.
        self.groups = _groups(index, size)

    def randomize(self) -> None:
        """Move away from zero, for tests."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.groups = _groups(self.index.tolist(), self.size)


_Change = tuple[torch.Tensor, torch.Tensor, torch.Tensor, "list[tuple[int, int, int]]"]
"""The index, up and down of one or several deltas together, and their groups."""


def _groups(index: list[int], size: int) -> list[tuple[int, int, int]]:
    """Expert, first place and count of each run of neurons of one expert in an increasing index."""
    counts: dict[int, int] = {}
    for number in index:
        counts[number // size] = counts.get(number // size, 0) + 1
    groups, first = [], 0
    for expert, count in counts.items():
        groups.append((expert, first, count))
        first += count
    return groups


def _together(deltas: list[ExpertsDelta]) -> _Change:
    """Add up the changes of several adapters: a neuron is not linear in its weights, so its change is not a sum."""
    first = deltas[0]
    if len(deltas) == 1:
        return first.index, first.up, first.down, first.groups
    index, place = torch.cat([d.index for d in deltas]).unique(return_inverse=True)
    up = first.up.new_zeros(len(index), *first.up.shape[1:]).index_add(0, place, torch.cat([d.up for d in deltas]))
    down = first.down.new_zeros(len(index), first.down.shape[1])
    down = down.index_add(0, place, torch.cat([d.down for d in deltas]))
    return index, up, down, _groups(index.tolist(), first.size)


class SliceExperts(SliceLayer):
    """The experts of a layer, some of whose neurons are trained, with any number of named adapters.

    It computes ``base(x) + sum over chosen experts e of w_e * (f(x, W + change) - f(x, W))``, where ``f`` is the
    output of the chosen neurons alone, ``w_e`` the router's weight: exactly the experts with changed weights, while
    gradients exist only for the chosen neurons. Without a change both ``f`` are the same bits and cancel.
    """

    @staticmethod
    def check(module: nn.Module, neurons: dict[int, list[int]]) -> tuple[int, int]:  # type: ignore[override]
        base: Any = base_of(module)
        gated = getattr(base, "has_gate", False) and not getattr(base, "has_post_expert_norm", False)
        weights: list[Any] = [getattr(base, name, None) for name in ("gate_up_proj", "down_proj")]
        if not gated or not all(isinstance(w, nn.Parameter) and w.ndim == 3 for w in weights):
            raise GuidedError(
                f"slice: cannot train expert neurons of a {type(base).__name__} (only of gated experts with a "
                "gate_up_proj and a down_proj of three dimensions)"
            )
        if not all(w.is_floating_point() for w in weights):
            raise GuidedError(f"slice: this {type(base).__name__} is quantized (load the model unquantized)")
        num_experts, size, hidden = len(base.down_proj), size_of(base), hidden_of(base)
        for expert, index in neurons.items():
            if expert >= num_experts:
                raise GuidedError(f"slice: there is no expert {expert} (0 to {num_experts - 1})")
            if index[-1] >= size:
                raise GuidedError(f"slice: expert {expert} has no neuron {index[-1]} (0 to {size - 1})")
        return hidden, hidden

    @staticmethod
    def draw(module: nn.Module, fraction: float, generator: Any) -> dict[str, Any]:
        base: Any = base_of(module)
        size = size_of(base)
        total = len(base.down_proj) * size
        return {"neurons": _by_expert(sorted(generator.sample(range(total), max(1, round(fraction * total)))), size)}

    def update_layer(  # type: ignore[override]
        self,
        adapter_name: str,
        *,
        neurons: dict[int, list[int]],
        rank: int | None = None,
        init_weights: bool = True,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter that trains these neurons of these experts, in full."""
        assert rank is None, "SliceConfig refuses a rank for expert neurons"
        self.check(self, neurons=neurons)
        base: Any = self.get_base_layer()
        size, weight = size_of(base), self.stored_weight
        index = sorted(expert * size + i for expert, inside in neurons.items() for i in inside)
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        delta = ExpertsDelta(index, size, self.in_features, dtype, weight.device)
        if not init_weights:
            delta.randomize()
        self.slice_delta[adapter_name] = delta
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    @property
    def stored_weight(self) -> torch.Tensor:
        return self.get_base_layer().down_proj  # type: ignore[return-value]

    def _neurons(self, adapter_name: str) -> ExpertsDelta:
        return cast(ExpertsDelta, self.slice_delta[adapter_name])

    def spec(self, adapter_name: str) -> dict[str, Any]:
        delta = self._neurons(adapter_name)
        neurons = _by_expert(delta.index.tolist(), delta.size)
        return {"neurons": {str(expert): pack_index(index) for expert, index in neurons.items()}}

    def fits(self, adapter_name: str, index: torch.Tensor) -> bool:
        base: Any = self.get_base_layer()
        if index.dtype != torch.int64 or not bool((index[1:] > index[:-1]).all()):
            return False
        return int(index[0]) >= 0 and int(index[-1]) < len(base.down_proj) * size_of(base)

    def forward(self, x: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, top_k_index, top_k_weights)
        deltas = [self._neurons(name) for name in self.active_adapters if name in self.slice_delta]
        if self.disable_adapters or self.merged or not deltas:
            return y
        return y + self._difference(_together(deltas), x, top_k_index, top_k_weights).to(y.dtype)

    def _difference(
        self, change: _Change, x: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """What the change of the chosen neurons adds to the output: ``[tokens, hidden]``."""
        base: Any = self.get_base_layer()
        index, all_up, all_down, groups = change
        dtype, size, k = all_up.dtype, size_of(base), top_k_index.shape[-1]
        # The pairs of token and expert, sorted by expert.
        chosen = top_k_index.reshape(-1)
        order, counts = chosen.argsort(stable=True), self.count(chosen, len(base.down_proj))
        total = x.new_zeros(x.shape, dtype=dtype)
        # With no token for any of the experts one of them stays, so that there is a gradient (of zero) all the same.
        for expert, first, count in [g for g in groups if counts[g[0]]] or groups[:1]:
            pairs = order.narrow(0, sum(counts[:expert]), counts[expert])
            tokens = pairs // k
            inside = index.narrow(0, first, count) - expert * size
            up, down = all_up.narrow(0, first, count), all_down.narrow(0, first, count)
            old_up, bias, old_down = weights_of(base, expert, inside, dtype)
            inputs = x.index_select(0, tokens).to(dtype)
            before = F.linear(inputs, old_up, bias)
            old = base._apply_gate(before)
            new = base._apply_gate(before + F.linear(inputs, side_by_side(base, up).flatten(0, 1)))
            output = (new - old) @ old_down + new @ down
            output = output * top_k_weights.reshape(-1).index_select(0, pairs)[:, None]
            total.index_add_(0, tokens, output.to(dtype))
        return total

    @staticmethod
    def count(chosen: torch.Tensor, experts: int) -> list[int]:
        """How often each expert is chosen: one wait for the device."""
        return torch.bincount(chosen, minlength=experts).tolist()

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        raise GuidedError("slice: the change of expert neurons is no single matrix (merge_adapter() writes it)")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def _written(self, adapter_name: str) -> Iterator[tuple[torch.Tensor, tuple, torch.Tensor]]:
        """The stored weights, where in them the neurons lie, and the change there: ``[n, ..., hidden]``."""
        base: Any = self.get_base_layer()
        delta = self._neurons(adapter_name)
        expert, inside = delta.index // delta.size, delta.index % delta.size
        expert_2, rows, everything = expert[:, None].expand(-1, 2), rows_of(base, inside), slice(None)
        at_up = (expert_2, everything, rows) if base.is_transposed else (expert_2, rows)
        at_down = (expert, inside) if base.is_transposed else (expert, everything, inside)
        yield base.gate_up_proj.data, at_up, delta.up.detach()
        yield base.down_proj.data, at_down, delta.down.detach()

    def _write(self, adapter_name: str, safe_merge: bool) -> list[torch.Tensor]:
        kept, written = [], []
        for weight, place, change in self._written(adapter_name):
            before = weight[place]
            after = (before.to(change.dtype) + change).to(weight.dtype)
            if safe_merge and not torch.isfinite(after).all():
                raise broken(adapter_name)
            kept.append(before)
            written.append((weight, place, after))
        for weight, place, after in written:
            weight[place] = after
        return kept

    def _put_back(self, adapter_name: str, kept: list[torch.Tensor]) -> None:
        for (weight, place, _), before in zip(self._written(adapter_name), kept, strict=True):
            weight[place] = before


def _by_expert(index: list[int], size: int) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for number in index:
        result.setdefault(number // size, []).append(number % size)
    return result
