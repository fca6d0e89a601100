"""What must hold for the slice adapter on every architecture: short forms, and the laws of a forward and of training.

A law takes the name of a family and an empty folder, and asserts. ``law_matrix.py`` has them all in one table.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import families
import moe
import torch
from peft import PeftModel, get_peft_model
from slicing import base_tensors, same, slice_layers
from torch import nn

from guided_ft.anatomy import Anatomy
from guided_ft.slice import SliceConfig

VISIBLE = 1e-3
ROUNDING = 1e-6
MERGED = 1e-5
"""Largest difference of logits between a matrix that was changed and a change that is added."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STEPS = 20

# Whole key/value groups, a head alone, neighbouring and single neurons; "other" shares some of them and adapts more modules.
_HEADS = "L0.H0 L0.H1 L1.H2"
_BOTH = {"heads": _HEADS, "layer": "L1"}
_DENSE = _BOTH | {"all": f"{_HEADS} L0.N3 L0.N17 L0.N18 L1.N5 L1.N47", "other": "L0.H1 L1.H0 L1.H1 L0.N3 L0.N4 L1.N6"}
_SPARSE = _BOTH | {"all": f"{_HEADS} {moe.NEURONS}", "other": "L0.H1 L1.H0 L1.H1 L0.E0.N3 L0.E1.N4 L1.E2.N6"}


# -- short forms -------------------------------------------------------------------------------------------------------
def text_of(family: str, which: str) -> str:
    return (_SPARSE if family in families.MOE else _DENSE)[which]


@cache
def _slices(family: str, which: str) -> dict[str, dict]:
    return moe.config_of(families.make(family), text_of(family, which))


def config(family: str, which: str = "all", **options) -> SliceConfig:
    """A configuration with random deltas, unless ``init_weights`` says otherwise."""
    return SliceConfig(slices=copy.deepcopy(_slices(family, which)), **{"init_weights": False} | options)


def attached(family: str, which: str = "all", dtype: torch.dtype = torch.float32, **options) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(families.make(family, dtype), config(family, which, **options)).eval()


def newborn(family: str, dtype: torch.dtype = torch.float32, **options) -> PeftModel:
    return attached(family, dtype=dtype, init_weights=True, **options)


def two_adapters(
    family: str, which: str = "all", other: str = "other", dtype: torch.dtype = torch.float32
) -> PeftModel:
    peft_model = attached(family, which, dtype)
    peft_model.add_adapter("other", config(family, other))
    return peft_model


def deltas(peft_model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    """The adapter's trained tensors, by module and kind."""
    return {
        f"{name}.{kind}": p
        for name, layer in slice_layers(peft_model).items()
        if adapter in layer.slice_delta
        for kind, p in layer.slice_delta[adapter].named_parameters()
    }


def loss_of(model: nn.Module, seed: int = 1) -> torch.Tensor:
    ids = families.tokens(seed=seed)
    return model(input_ids=ids, labels=ids).loss


def train(model: nn.Module, masks: dict[str, torch.Tensor] | None = None, weight_decay: float = 0.0) -> None:
    """Train what requires gradients with AdamW; ``masks`` are multiplied with the gradients of the weights they name."""
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3, weight_decay=weight_decay)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, seed=100 + step).backward()
        for name, mask in (masks or {}).items():
            weights[name].grad *= mask
        optimizer.step()


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


# -- forward -----------------------------------------------------------------------------------------------------------
def at_birth_it_is_the_base(family: str, folder: Path) -> None:
    for dtype in DTYPES[:2]:
        base = families.logits(families.make(family, dtype))
        assert base.dtype == dtype
        assert torch.equal(families.logits(newborn(family, dtype)), base)


def disabled_it_is_the_base(family: str, folder: Path) -> None:
    for dtype in DTYPES[:2]:
        base = families.logits(families.make(family, dtype))
        peft_model = attached(family, dtype=dtype)
        changed = families.logits(peft_model)
        assert distance(changed, base) > VISIBLE
        with peft_model.disable_adapter():
            assert torch.equal(families.logits(peft_model), base)
        assert torch.equal(families.logits(peft_model), changed)


def every_part_has_an_effect(family: str, folder: Path) -> None:
    peft_model = attached(family)
    changed = families.logits(peft_model)
    for name, delta in deltas(peft_model).items():
        kept = delta.detach().clone()
        delta.data.zero_()
        assert distance(families.logits(peft_model), changed) > 1e-6, name
        delta.data.copy_(kept)


def deltas_are_float32_on_any_base(family: str, folder: Path) -> None:
    for dtype in (*DTYPES, torch.float64):
        expected = torch.float64 if dtype == torch.float64 else torch.float32
        for autocast in (False, True):
            model = families.make(family, dtype)
            peft_model = get_peft_model(model, config(family), autocast_adapter_dtype=autocast).eval()
            assert {p.dtype for p in deltas(peft_model).values()} == {expected}
        if dtype != torch.float64:  # which stock experts cannot compute with
            assert families.logits(peft_model).dtype == dtype


def embeddings_as_input(family: str, folder: Path) -> None:
    peft_model = attached(family)
    embedded = peft_model.get_input_embeddings()(families.tokens())
    with torch.no_grad():
        found = peft_model(inputs_embeds=embedded).logits
    assert torch.equal(found, families.logits(peft_model))


def generation_uses_it(family: str, folder: Path) -> None:
    ids, options = families.tokens(), {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    base = families.make(family).generate(input_ids=ids, **options)
    peft_model = attached(family)
    for p in deltas(peft_model).values():
        p.data *= 20
    found = peft_model.generate(input_ids=ids, **options)
    step = ids
    for _ in range(5):
        # Without a cache of keys and values: one full forward per token.
        step = torch.cat([step, families.logits(peft_model, step)[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, step)
    assert not torch.equal(found, base)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model.generate(input_ids=ids, **options), base)
    assert torch.equal(peft_model.merge_and_unload().generate(input_ids=ids, **options), found)


def no_hook_stays(family: str, folder: Path) -> None:
    peft_model = two_adapters(family, "heads", "heads")
    ids = families.tokens()
    before = hooks(families.make(family))
    peft_model(input_ids=ids, adapter_names=["default", "other"])
    peft_model.generate(input_ids=ids, max_new_tokens=2, adapter_names=["__base__", "other"])
    with peft_model.disable_adapter():
        peft_model(input_ids=ids)
    loss_of(peft_model.train()).backward()
    peft_model.merge_adapter()
    assert hooks(peft_model) == before
    assert hooks(peft_model.merge_and_unload()) == before


def a_compiled_model_is_the_same(family: str, folder: Path) -> None:
    peft_model = attached(family)
    expected = families.logits(peft_model)
    loss_of(peft_model).backward()
    gradients = {n: p.grad.clone() for n, p in deltas(peft_model).items()}
    peft_model.zero_grad()
    torch._dynamo.reset()
    # Everything but the making of machine code, which is not ours.
    compiled = torch.compile(peft_model, backend="aot_eager")
    assert distance(families.logits(compiled), expected) <= ROUNDING
    loss_of(compiled).backward()
    assert all(distance(p.grad, gradients[n]) <= ROUNDING for n, p in deltas(peft_model).items())


# -- training ----------------------------------------------------------------------------------------------------------
def gradient_is_the_masked_full_gradient(family: str, folder: Path) -> None:
    """A step against the gradient, merged, is a step against the masked gradient, wherever a layout puts the rows."""
    full = families.make(family)
    loss_of(full).backward()
    before = base_tensors(full)
    for which in ("all", "layer"):
        masks = moe.mask_of(full, text_of(family, which))
        peft_model = attached(family, which, init_weights=True)
        loss_of(peft_model).backward()
        for delta in deltas(peft_model).values():
            delta.data.copy_(delta.grad)
        peft_model.merge_adapter()
        for name, tensor in base_tensors(peft_model).items():
            step = tensor - before[name]
            if name not in masks:
                assert not step.any(), name
                continue
            expected = full.get_parameter(name).grad * masks[name]
            assert expected.abs().max() > 1e-4, name
            assert distance(step, expected) <= ROUNDING, name


def only_deltas_have_gradients(family: str, folder: Path) -> None:
    peft_model = newborn(family)
    loss_of(peft_model).backward()
    expected = {id(p) for p in deltas(peft_model).values()}
    assert {id(p) for p in peft_model.parameters() if p.requires_grad} == expected
    assert {id(p) for p in peft_model.parameters() if p.grad is not None} == expected


def training_is_masked_full_fine_tuning(family: str, folder: Path) -> None:
    full, before = families.make(family), base_tensors(families.make(family))
    masks = moe.mask_of(full, text_of(family, "all"))
    for name, p in full.named_parameters():
        p.requires_grad_(name in masks)
    train(full, masks)
    peft_model = newborn(family)
    train(peft_model)
    peft_model.merge_adapter()
    trained = base_tensors(peft_model)
    for name, target in base_tensors(full).items():
        assert distance(trained[name], target) <= MERGED, name
        if name in masks:
            assert distance(target, before[name]) > 1e-3, "twenty steps moved nothing"


def weight_decay_moves_no_base_tensor(family: str, folder: Path) -> None:
    before = base_tensors(families.make(family))
    peft_model = newborn(family)
    train(peft_model, weight_decay=0.1)
    assert all(p.abs().max() > 1e-3 for p in deltas(peft_model).values())
    assert same(base_tensors(peft_model), before)


def checkpointing_changes_no_gradient(family: str, folder: Path) -> None:
    plain = attached(family).train()
    loss_of(plain).backward()
    expected = {n: p.grad for n, p in deltas(plain).items()}
    for reentrant in (False, True):
        saving = attached(family).train()
        if reentrant:
            saving.enable_input_require_grads()
        saving.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss_of(saving).backward()
        found = {n: p.grad for n, p in deltas(saving).items()}
        assert found.keys() == expected.keys()
        # Not bit-equal in every family: autograd may add the same terms in another order.
        assert all(distance(found[n], expected[n]) <= ROUNDING for n in expected)


def whole_modules(family: str) -> list[str]:
    """The last norm, and the output head where it is not tied to the embedding."""
    model = families.make(family)
    anatomy = Anatomy.of(model)
    decoder = anatomy.prefix.rpartition(".")[0]
    head = [] if model.config.tie_word_embeddings else ["embed_out" if hasattr(model, "embed_out") else "lm_head"]
    return [f"{decoder}.{anatomy.family.final_norm}", *head]


def modules_to_save_train_and_come_back(family: str, folder: Path) -> None:
    names = whole_modules(family)
    base, before = families.logits(families.make(family)), base_tensors(families.make(family))
    peft_model = newborn(family, modules_to_save=names)
    assert torch.equal(families.logits(peft_model), base)
    whole = {n for n, p in peft_model.named_parameters() if p.requires_grad and ".slice_delta." not in n}
    assert whole == {n for n, _ in peft_model.named_parameters() if ".modules_to_save.default." in n} != set()
    train(peft_model)
    expected = families.logits(peft_model)
    peft_model.save_pretrained(folder)
    again = PeftModel.from_pretrained(families.make(family), folder)
    assert torch.equal(families.logits(again), expected)
    with again.disable_adapter():
        assert torch.equal(families.logits(again), base)
    merged = again.merge_and_unload()
    assert distance(families.logits(merged), expected) <= MERGED
    after = base_tensors(merged)
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[f"{n}.weight"], before[f"{n}.weight"]) for n in names)
