"""Laws that every scorer of the catalogue obeys, on every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from peft import IA3Config, LoraConfig, get_peft_model
from scoring import OPTIONS, SETS, all_methods, pairs, preferences, same, sums
from slicing import attach
from test_scorers import equal, prepared, state_of

from guided_ft import localize
from guided_ft.anatomy import KINDS, Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.scorers import catalogue
from guided_ft.scorers.watch.passes import BACKWARD, FORWARD
from guided_ft.scorers.watch.record import record
from guided_ft.scorers.watch.recorder import Recorder
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task

METHODS = tuple(catalogue.CATALOGUE)
DATA = tuple(name for name in METHODS if catalogue.CATALOGUE[name].needs_data)
TRAINED = ("gradient", "gates", "movement")
"""What these do depends on the batches by definition."""
MAY_BE_FLAT = {"execution_depth", "probe", "eap"}
"""An answer that never appears, probes that are all right, a circuit that is empty."""


def kinds_of(name: str) -> tuple[str, ...]:
    return OPTIONS.get(name, {}).get("kinds", catalogue.CATALOGUE[name].kinds)


def run(model, task: Task, against: Task, skip: tuple[str, ...] = (), retain=None) -> dict[str, ScoreMap]:
    """All methods: those that score few kinds only, for the time it takes, by themselves."""
    narrow = tuple(name for name in METHODS if kinds_of(name) != catalogue.CATALOGUE[name].kinds and name not in skip)
    wanted = all_methods(against, skip=(*skip, *narrow))
    maps = localize(model, task, methods=wanted, retain=retain)
    for name in narrow:
        maps[name] = localize(model, task, name, retain, kinds_of(name))
    return maps


def test_every_scorer_on_every_family(family):
    model, task, against = prepared(family), sums(4, batch_size=3), sums(4, first=6)
    before = state_of(model)
    bits = [p.detach().clone() for p in model.parameters()]
    maps = run(model, task, against)
    assert equal(state_of(model), before)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))
    assert set(maps) == set(METHODS)
    for name, scores in maps.items():
        assert scores.kinds == kinds_of(name)
        assert scores.meta["method"] == name
        for kind in scores.kinds:
            assert np.isfinite(scores.of(kind)).all()
            if name not in MAY_BE_FLAT:
                assert np.ptp(scores.of(kind)) > 0, (name, kind)
    again = run(model, task, against)
    for name in maps:
        for kind in maps[name].kinds:
            assert np.array_equal(maps[name].of(kind), again[name].of(kind)), (name, kind)


def test_mixtures_of_experts_are_scored_or_refused_by_name(moe_family):
    model, task, against = make(moe_family), sums(4, batch_size=3), sums(4, first=6)
    refused = ("eap", "fisher", "coherence", "natural_gain", "frequency", "specificity", "wanda")
    for name, options in all_methods(against, skip=("ablation", *refused)).items():
        scores = localize(model, task, name, None, **options)
        assert all(np.isfinite(scores.of(kind)).all() for kind in scores.kinds)
    for name in refused:
        with pytest.raises(GuidedError, match="experts share no input"):
            localize(model, task, name, None, **all_methods(against)[name])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_shared_passes_change_nothing(family):
    model, task, against = make(family), sums(5, batch_size=2), sums(4, first=6)
    wanted = all_methods(against, skip=("ablation", "gates"))
    together = localize(model, task, methods=wanted, retain=None)
    for name, options in wanted.items():
        same(localize(model, task, name, None, **options), together[name], 1e-6, name)


def test_each_pass_is_run_once():
    model, task = make("llama"), sums(6, batch_size=2)
    count = {"forward": 0}
    handle = model.register_forward_hook(lambda *a: count.update(forward=count["forward"] + 1))
    listeners = ["activation", "wanda", "direct_logit", "block_influence", "attribution", "fisher", "snip", "coherence"]
    localize(model, task, methods=listeners, retain=None)
    assert count["forward"] == 9  # three batches: activations; their gradients; the weights' gradients
    count["forward"] = 0
    localize(model, task, methods=listeners, retain=sums(2, first=9))
    assert count["forward"] == 12
    handle.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_batching_and_padding_change_nothing(family):
    model = make(family)
    skip = (*TRAINED, "ablation", *(set(METHODS) - set(DATA)))
    settings = [(1, "right"), (3, "right"), (8, "right"), (3, "left"), (8, "left")]
    maps = []
    for size, side in settings:
        against = sums(4, size, first=6, padding=side)
        wanted = all_methods(against, skip=skip)
        maps.append(localize(model, sums(6, size, padding=side), methods=wanted, retain=None))
    for other, setting in zip(maps[1:], settings[1:], strict=True):
        for name in maps[0]:
            same(maps[0][name], other[name], 1e-5, f"{name} {setting}")


@pytest.mark.parametrize("method", ["attribution", "integrated_gradients", "eap"])
def test_batching_and_padding_change_nothing_in_pairs(method):
    model = make("llama")
    settings = {"replace": "corrupted"} if method != "integrated_gradients" else {"baseline": "corrupted"}
    settings |= {"keep": 0.5, "steps": 2} if method == "eap" else {}
    tasks = [pairs(6, size, padding=side) for size, side in ((1, "right"), (4, "right"), (8, "left"))]
    maps = [localize(model, task, method, None, **settings) for task in tasks]
    same(maps[0], maps[1])
    same(maps[0], maps[2])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_scorer_takes_preferences(family):
    model, task, against = make(family), preferences(4, batch_size=3), sums(4, first=6)
    skip = ("ablation", "gates")
    one, two = (run(model, preferences(4, size), against, skip=skip) for size in (1, 3))
    for name in one:
        if name not in TRAINED:
            same(one[name], two[name], 1e-5, name)
    assert localize(model, task, "probe", None).meta["chance"] == 0.5


def test_every_scorer_takes_bf16():
    task, against = sums(5), sums(4, first=6)
    exact, rough = (run(make("llama", d), task, against, skip=("gates",)) for d in (torch.float32, torch.bfloat16))
    for name in ("fisher", "wanda", "activation", "direct_logit", "gradient_norm", "contrast", "snip", "angular"):
        kind = exact[name].kinds[-1]
        assert exact[name].compare(rough[name], kind)["spearman"] > 0.95, name


def test_a_model_with_an_adapter_is_scored_with_it():
    model, task = make("llama"), sums(4)
    plain = localize(model, task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "o_proj", "down_proj"]))
    born = localize(adapted, task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    for name in plain:
        same(plain[name], born[name], 1e-5, name)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    trained = localize(adapted, task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    merged = localize(adapted.merge_and_unload(), task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    for name in plain:
        same(merged[name], trained[name], 1e-4, name)
        assert not np.allclose(plain[name].head, trained[name].head)


WEIGHED = {"written": {"method": "activation", "written": True}, "wanda": {}, "snip": {}}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "slice"])
def test_what_is_weighed_are_the_weights_with_the_adapter(family, kind):
    model, task = make(family), sums(4)
    a = Anatomy.of(model)
    born = localize(model, task, methods=WEIGHED, retain=None)
    names = sorted({name.rsplit(".", 1)[-1] for name in (a.family.out, a.family.down)})
    flat = {"fan_in_fan_out": True} if family == "gpt2" else {}
    if kind == "slice":
        adapted = attach(model, "L0.H0 L0.N3 L1.N5 L1.H2")
    elif kind == "ia3":
        adapted = get_peft_model(model, IA3Config(target_modules=names, feedforward_modules=[], **flat))
    else:
        config = LoraConfig(r=2, target_modules=names, use_dora=kind == "dora", **flat)
        adapted = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, p in adapted.named_parameters():
        if p.requires_grad and "lora_A" not in name:
            p.data += torch.randn_like(p) * 0.3
    # The gradient of a base weight is that of the merged one only where an adapter adds to it.
    wanted = {n: o for n, o in WEIGHED.items() if n != "snip" or kind in ("lora", "slice")}
    trained = localize(adapted, task, methods=wanted, retain=None)
    adapted.merge_adapter()
    same_as = localize(adapted, task, methods=wanted, retain=None)
    adapted.unmerge_adapter()
    merged = localize(adapted.merge_and_unload(), task, methods=wanted, retain=None)
    for name in wanted:
        same(merged[name], trained[name], 1e-4, name)
        same(merged[name], same_as[name], 1e-5, name)
        assert not np.allclose(born[name].neuron, trained[name].neuron), name


def test_an_output_head_with_an_adapter_is_refused_until_it_is_merged():
    adapted, task = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["lm_head"])), sums(3)
    with pytest.raises(GuidedError, match=r"direct_logit: the output head carries an adapter \(merge it first\)"):
        localize(adapted, task, "direct_logit", None)
    adapted.merge_adapter()
    same(localize(make("llama"), task, "direct_logit", None), localize(adapted, task, "direct_logit", None))


def test_edges_of_an_adapted_model_are_refused():
    adapted = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(GuidedError, match="carries an adapter"):
        localize(adapted, sums(2), "eap", None)


class Broken(Exception):
    pass


@pytest.mark.parametrize("method", [m for m in DATA if m != "ablation"])
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_nothing_is_left_behind_after_a_fault(method, error):
    model, task = prepared("llama"), sums(4, batch_size=2)
    calls = {"left": 1}

    def fail(module, args):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise error  # in the second pass, when all hooks and sums are in use

    handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    before, bits = state_of(model), [p.detach().clone() for p in model.parameters()]
    with pytest.raises(error):
        localize(model, task, methods={method: all_methods(sums(4, first=6))[method]}, retain=None)
    handle.remove()
    after = state_of(model)
    assert after[0] == before[0] - 1
    assert equal((before[0], *after[1:]), before)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))


def test_attention_is_computed_as_before_after_a_sink_score():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(make("llama").config, attn_implementation="sdpa")
    model.load_state_dict(make("llama").state_dict())
    found = localize(model, sums(4), "sink", None)
    assert model.config._attn_implementation == "sdpa"
    same(localize(make("llama"), sums(4), "sink", None), found)


def test_memory_does_not_grow_with_the_examples():
    def size(count: int) -> dict[str, int]:
        model, task = make("llama"), sums(count, batch_size=2)
        anatomy = Anatomy.of(model)
        found = {}
        for name, options in all_methods(sums(2, first=6)).items():
            scorer = catalogue.find(name).load()
            if isinstance(scorer, type) and issubclass(scorer, Recorder):
                recorder = scorer(anatomy, catalogue.find(name).kinds, **options)
                record(model, anatomy, task, {name: recorder})
                held = [v for step in recorder.steps for v in step.values()]
                held += [v for x in vars(recorder).values() if isinstance(x, dict) for v in x.values()]
                tensors = [t for v in held for t in (v if isinstance(v, tuple) else (v,)) if torch.is_tensor(t)]
                found[name] = sum(t.numel() for t in tensors)
        return found

    assert size(4) == size(10)


@pytest.mark.parametrize("method", [m for m in METHODS if catalogue.CATALOGUE[m].kinds != KINDS])
def test_a_kind_that_is_not_defined_is_refused_by_name(method):
    kinds = catalogue.CATALOGUE[method].kinds
    missing = next(kind for kind in KINDS if kind not in kinds)
    with pytest.raises(GuidedError) as error:
        localize(make("llama"), sums(2), method, None, kinds=(missing,))
    assert str(error.value) == f"{method}: it does not score a {missing} (it scores: {', '.join(kinds)})"


@pytest.mark.parametrize("method", DATA)
def test_two_sided_works_or_says_why_not(method):
    model, task, retain = make("llama"), sums(3), sums(3, first=6)
    options = all_methods(retain)[method]
    options.pop("against", None)
    scores = localize(model, task, method, retain, kinds_of(method), **options)
    if method in SETS:
        assert scores.meta["options"]["against"]["hash"] == retain.hash
        assert scores.meta["retain"] is None
    else:
        assert scores.meta["retain"]["hash"] == retain.hash


def test_methods_of_ones_own_stand_beside_the_others(monkeypatch):
    class Loudness(Recorder):
        """Mean size of the activation."""

        program = ((FORWARD, 0),)

        def watch(self, scene, step):
            scene.at_components(
                self.kinds,
                lambda kind, i, a: self.add_tokens(
                    (kind, i), scene.split(a, kind).norm(dim=-1), scene.without_first(1)
                ),
            )

        def result(self, scene):
            return self.stack(lambda kind, layer: self.token_mean((kind, layer)))

    def depth(model, anatomy, task, *, kinds, progress=None):
        return ScoreMap(anatomy, layer=np.arange(anatomy.num_layers, dtype=float))

    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register("loudness", Loudness)
    catalogue.register("depth", depth, needs_data=False, kinds=("layer",))
    model, task = make("llama"), sums(4)
    maps = localize(model, task, methods=["depth", "loudness", "activation"], retain=None)
    assert maps["depth"].top("layer", 1) == [(Component("layer", 1), 1.0)]
    same(maps["activation"], maps["loudness"])
    assert maps["loudness"].meta["together_with"] == ["activation", "depth"]


def test_one_method_with_several_options():
    model, task = make("llama"), sums(4)
    maps = localize(
        model,
        task,
        methods={"zero": {"method": "attribution"}, "mean": {"method": "attribution", "replace": "mean"}, "fisher": {}},
        retain=None,
    )
    assert list(maps) == ["zero", "mean", "fisher"]
    assert maps["mean"].meta["method"] == "attribution"
    assert maps["mean"].meta["options"] == {"replace": "mean"}
    same(localize(model, task, "attribution", None, replace="mean"), maps["mean"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": "attribution"}, "methods: expected a list of names"),
        ({"methods": []}, "methods: expected a list of names"),
        ({"methods": ["fisher"], "signed": True}, "methods: options go with their method"),
        ({"methods": ["fischer"]}, "method: unknown value 'fischer' (did you mean 'fisher'?)"),
        ({"methods": {"fisher": {"x": 1}}}, "method 'fisher': got an unexpected keyword argument 'x'"),
        ({"method": "contrast", "retain": None}, "contrast: it compares sets (give against=Task, or retain)"),
        ({"method": "contrast", "against": [sums(1), sums(1)]}, "contrast: it compares with one set, got 2"),
        ({"method": "specificity", "against": []}, "specificity: against names no set"),
        ({"method": "specificity", "against": sums(1), "only": 2}, "only: there is no set 2"),
        ({"method": "specificity", "against": sums(1), "bar": 1.0}, "bar: expected a share"),
        ({"method": "probe", "retain": None}, "probe: it tells sets apart"),
        ({"method": "probe", "against": sums(1)}, "probe: a set has fewer than two texts"),
        ({"method": "probe", "against": sums(2), "ridge": 0.0}, "ridge: expected a number above 0"),
        ({"method": "attribution", "replace": "corrupted", "retain": None}, "has no corrupted prompts"),
        ({"method": "attribution", "replace": "noise"}, "replace: unknown value 'noise'"),
        ({"method": "integrated_gradients", "steps": 0}, "steps: expected a number of strides from 1 up, got 0"),
        ({"method": "integrated_gradients", "rule": "x"}, "rule: unknown value 'x'"),
        ({"method": "integrated_gradients", "baseline": "x"}, "baseline: unknown value 'x'"),
        ({"method": "gates", "penalty": "l2"}, "penalty: unknown value 'l2'"),
        ({"method": "gates", "steps": 0}, "steps: expected a number from 1 up, got 0"),
        ({"method": "movement", "steps": True}, "steps: expected a number from 1 up, got True"),
        ({"method": "movement", "optimizer": "lion"}, "optimizer: unknown value 'lion'"),
        ({"method": "activation", "sinks": 50}, "sinks: no text has a token left"),
        ({"method": "sensitivity", "noise": 0.0}, "noise: expected a share above 0"),
        ({"method": "low_rank", "rank": 0}, "rank: expected a number from 1 up"),
        ({"method": "tail_exponent", "tail": 0.0}, "tail: expected a share above 0"),
        ({"method": "eap", "keep": 0}, "keep: 0 leaves none"),
        ({"method": "eap", "keep": 1.5}, "keep: 1.5 leaves none or more than all of"),
        ({"method": "eap", "keep": 10**6}, "leaves none or more than all of"),
        ({"method": "attribution", "combine": "sum"}, "combine: unknown value 'sum'"),
        ({"method": "attribution", "weight": 2.0}, "weight: combine='ratio' has none"),
        ({"method": "attribution", "signed": True}, "signed: a ratio needs scores that are not negative"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    arguments = {"retain": sums(1, first=3)} | arguments
    with pytest.raises(GuidedError) as error:
        localize(make("llama"), sums(2), **arguments)
    assert message in str(error.value)


UNFIT = Task.from_dataset([{"input_ids": [5, 6, 200]}], None, name="unfit")


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "attribution", "retain": UNFIT},
        {"method": "contrast", "retain": None, "against": UNFIT},
        {"method": "specificity", "retain": None, "against": [sums(1), UNFIT]},
    ],
    ids=lambda a: a["method"],
)
def test_all_sets_are_checked_before_any_pass(arguments):
    model = make("llama")
    model.register_forward_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(GuidedError, match="task 'unfit': example 0 has token id 200, but the model knows 99"):
        localize(model, sums(2), **arguments)


def test_two_sided_difference_and_a_combination_of_ones_own():
    model, task, retain = make("llama"), sums(4), sums(4, first=6)
    target, kept = (localize(model, t, "attribution", None, signed=True) for t in (task, retain))
    both = localize(model, task, "attribution", retain, combine="difference", weight=0.5, signed=True)
    np.testing.assert_allclose(both.head, target.head - 0.5 * kept.head, rtol=1e-5, atol=1e-8)
    assert both.meta["combine"] == "difference"

    def least(a: ScoreMap, b: ScoreMap) -> ScoreMap:
        return ScoreMap(a.anatomy, head=np.minimum(a.head, b.head))

    own = localize(model, task, "attribution", retain, kinds=("head",), combine=least, signed=True)
    np.testing.assert_array_equal(own.head, np.minimum(target.head, kept.head))
    assert own.meta["combine"] == "least"


def test_passes_are_told():
    model, task = make("llama"), sums(6, batch_size=2)
    maps = localize(
        model, task, methods={"attribution": {"replace": "mean"}, "integrated_gradients": {"steps": 4}}, retain=None
    )
    assert maps["attribution"].meta["passes"] == 6
    assert maps["integrated_gradients"].meta["passes"] == 15
    assert FORWARD.order < BACKWARD.order
