"""Stock models whose weights are set by hand: known heads carry a token to the end of the prompt, known neurons turn it
into the answer. Everything else is alive, reads everything, and writes where little is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from guided_ft.anatomy import Anatomy, Component
from guided_ft.task.task import Task
from guided_ft.task.tokens import IGNORE, Tokens

FAMILIES = ("llama", "gpt2", "opt")
FACTS = 8
"""Each content token has one answer token; half of them travel through one head, half through the other."""

CONTENT, CARRIED, ANSWER = (slice(i * FACTS, (i + 1) * FACTS) for i in range(3))
ONE = 3 * FACTS
"""A dimension that is 1 in every token."""
NOISE = slice(ONE + 1, None)
HIDDEN, LAYERS, HEADS, NEURONS, LENGTH = 96, 4, 6, 64, 6
CONTENT_SIZE = 4.0
FILLERS = range(2 * FACTS, 2 * FACTS + 20)

HEAD_PARTS = (Component("head", 0, 4), Component("head", 1, 1))
NEURON_PARTS = tuple(Component("neuron", 2 + i % 2, 7 * i + 3) for i in range(FACTS))

_SIZES = {
    "llama": {"intermediate_size": NEURONS, "num_key_value_heads": 3, "hidden_size": HIDDEN},
    "gpt2": {"n_inner": NEURONS, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "hidden_size": HIDDEN},
    "opt": {"ffn_dim": NEURONS, "word_embed_proj_dim": HIDDEN, "dropout": 0.0, "hidden_size": HIDDEN},
}


@dataclass(frozen=True)
class _Weights:
    """The weights of one model as ``[out, in]``, whatever the family stores."""

    model: PreTrainedModel
    anatomy: Anatomy

    def of(self, layer: int, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        module = self.model.get_submodule(self.anatomy.module(layer, name))
        return (module.weight.T if self.anatomy.family.transposed else module.weight), getattr(module, "bias", None)

    def set_rows(self, layer: int, name: str, rows, values: torch.Tensor) -> None:
        weight, bias = self.of(layer, name)
        rows = torch.as_tensor(rows)
        weight[rows] = values
        if bias is not None:
            bias[rows] = 0


@torch.no_grad()
def plant(family: str, *, seed: int = 0, leak: float = 0.005) -> PreTrainedModel:
    """Make the model. ``leak``: how much the distractors write where the circuit reads (standard deviation)."""
    config = AutoConfig.for_model(
        family,
        vocab_size=2 * FACTS + 20,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=32,
        attention_dropout=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=2 * FACTS + 19,
        **_SIZES[family],
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    weights = _Weights(model, Anatomy.of(model))
    for layer in range(LAYERS):
        _distract(weights, layer, leak)
    _embed(model)
    for number, head in enumerate(HEAD_PARTS):
        _carry(weights, head, range(number * FACTS // 2, (number + 1) * FACTS // 2))
    for fact, neuron in enumerate(NEURON_PARTS):
        _answer(weights, neuron, fact)
    return model


def _distract(weights: _Weights, layer: int, leak: float) -> None:
    """All heads and neurons read at random; they write into the noise, and a little everywhere."""
    family = weights.anatomy.family
    for name in family.projections:
        weight, bias = weights.of(layer, name)
        writes = name in (family.out, family.down)
        weight.normal_(0, 1 / weight.shape[1] ** 0.5)
        if writes:
            weight[: NOISE.start] = torch.randn_like(weight[: NOISE.start]) * leak
        if bias is not None:
            bias.normal_(0, leak if writes else 0.1)


def _embed(model: PreTrainedModel) -> None:
    tokens = model.get_input_embeddings().weight
    tokens.zero_()
    tokens[:, NOISE] = torch.randn_like(tokens[:, NOISE]) * 0.3
    tokens[:, ONE] = 1
    tokens[torch.arange(FACTS), torch.arange(FACTS) + CONTENT.start] = CONTENT_SIZE
    for name, module in model.named_modules():
        if name.endswith(("wpe", "embed_positions")):
            module.weight.zero_()
            module.weight[:, NOISE] = torch.randn_like(module.weight[:, NOISE]) * 0.1
    head = model.get_output_embeddings().weight
    head.normal_(0, 0.02)
    head[torch.arange(FACTS) + FACTS, torch.arange(FACTS) + ANSWER.start] = 1


def _carry(weights: _Weights, head: Component, facts: range) -> None:
    """Attend to all tokens alike, and write their content where the neurons look."""
    a, family = weights.anatomy, weights.anatomy.family
    group = head.index // a.heads_per_group
    for rows, item in ((family.query, head.index), (family.key, group)):
        weights.set_rows(head.layer, rows.module, a.head_rows(rows)[item], torch.zeros(a.head_dim, HIDDEN))
    values = torch.randn(a.head_dim, HIDDEN) * 0.02
    out, _ = weights.of(head.layer, family.out)
    part = slice(head.index * a.head_dim, (head.index + 1) * a.head_dim)
    out[:, part] = 0
    for place, fact in enumerate(facts):
        values[place] = 0
        values[place, CONTENT.start + fact] = 1
        out[CARRIED.start + fact, part.start + place] = 2
    weights.set_rows(head.layer, family.value.module, a.head_rows(family.value)[group], values)


def _answer(weights: _Weights, neuron: Component, fact: int) -> None:
    """Fire for one carried token, and say its answer."""
    a, family = weights.anatomy, weights.anatomy.family
    reads = torch.zeros(HIDDEN)
    reads[CARRIED.start + fact] = 2
    gate = torch.zeros(HIDDEN)
    gate[ONE] = 2
    for rows, values in zip(family.up, (reads,) if len(family.up) == 1 else (gate, reads), strict=True):
        weights.set_rows(neuron.layer, rows.module, [a.neuron_rows(rows)[neuron.index]], values[None])
    down, _ = weights.of(neuron.layer, family.down)
    down[:, neuron.index] = 0
    down[ANSWER.start + (fact + 3) % FACTS, neuron.index] = 4


def task(per_fact: int = 3, seed: int = 0) -> Task:
    """Prompts of fillers with one content token in them, each fact as often; the metric is the logit of its answer
    less that of another fact's, which does not saturate."""
    generator = torch.Generator().manual_seed(seed)
    examples, wrong = [], []
    for i in range(per_fact * FACTS):
        fillers = torch.randint(FILLERS.start, FILLERS.stop - 1, (LENGTH,), generator=generator).tolist()
        fillers[int(torch.randint(LENGTH - 1, (), generator=generator))] = i % FACTS
        other = 1 + int(torch.randint(FACTS - 1, (), generator=generator))
        right, answer = (FACTS + (i + 3 + shift) % FACTS for shift in (0, other))
        examples.append((Tokens((*fillers, right), (IGNORE,) * LENGTH + (right,)),))
        wrong.append((IGNORE,) * LENGTH + (answer,))
    pad = FILLERS.stop - 1
    return Task(tuple(examples), pad_id=pad, name="planted", wrong=tuple(wrong), metric="logit_diff")
