"""Mistakes in a recipe, each told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided_ft.errors import GuidedError
from guided_ft.recipe import mends
from guided_ft.recipe.recipe import Recipe
from guided_ft.scorers.catalogue import CATALOGUE
from guided_ft.task.samples import SAMPLES
from recipes import NUMBER, errors_of

RATE = "recipe.yaml: train.learning_rate: expected auto or a number above 0, got {} (write a number such as 0.005)"

BUDGET = (
    "recipe.yaml: select.budget: expected a share above 0 up to 100%, or a number of parameters, got {} "
    "(write 2%, 0.02 or 100000)"
)

KEPT = "expected self, none, a sample or a .jsonl or .txt file, got {} ({})"

SAMPLED = f"write self, a path that ends in .jsonl or .txt, or a sample: {', '.join(sorted(SAMPLES))}"

MISTAKES = [
    # keys
    ("select: {budgt: 1%}", "recipe.yaml: select.budgt: unknown key (did you mean 'budget'?)"),
    ("budgt: 1%", "recipe.yaml: budgt: unknown key (did you mean 'select.budget'?)"),
    ("budget: 1%", "recipe.yaml: budget: unknown key (did you mean 'select.budget'?)"),
    ("seeed: 1", "recipe.yaml: seeed: unknown key (did you mean 'seed'?)"),
    ("train: {seed: 1}", "recipe.yaml: train.seed: unknown key (did you mean 'seed' at the top level?)"),
    ("train.steps: 5", "recipe.yaml: 'train.steps': unknown key (write steps indented below train)"),
    (
        "batch_size: 3",
        "recipe.yaml: batch_size: unknown key "
        "(did you mean 'localize.batch_size', 'train.batch_size' or 'evaluate.batch_size'?)",
    ),
    ("select: {xyzzy: 1}", "recipe.yaml: select.xyzzy: unknown key (one of: budget, first_layer, kinds, strategy)"),
    (r'select: {"a\nb": 1}', r"recipe.yaml: select.'a\nb': unknown key (one of: budget, first_layer, kinds, strategy)"),
    (
        "<<: {seed: 1}",
        "recipe.yaml: '<<': unknown key (one of: control, data, description, dtype, evaluate, localize, "
        "model, name, output, quantization, seed, select, train)",
    ),
    (
        "trust_remote_code: true",
        "recipe.yaml: trust_remote_code: unknown key "
        "(a recipe cannot ask for that; give --trust-remote-code on the command line)",
    ),
    # sections
    (
        "evaluate: 5",
        "recipe.yaml: evaluate: expected keys below it, got 5 "
        "(indent keys such as evaluate.max_new_tokens below it, or remove the line)",
    ),
    (
        "train:",
        "recipe.yaml: train: expected keys below it, got nothing "
        "(indent keys such as train.trainer below it, or remove the line)",
    ),
    ("train: 100", "recipe.yaml: train: expected keys below it, got 100 (did you mean 'data.train'?)"),
    # numbers
    ("train: {steps: ten}", NUMBER.format("'ten'")),
    ("train: {steps: 0}", NUMBER.format("0")),
    ("train: {steps: 1000000001}", NUMBER.format("1000000001")),
    ("train: {steps: 99999999999999999999999}", NUMBER.format("99999999999999999999999")),
    ("train: {steps: -3}", NUMBER.format("-3")),
    ("train: {steps: 1.5}", NUMBER.format("1.5")),
    ("train: {steps: 1e3}", NUMBER.format("1000.0")),
    ("train: {steps: true}", NUMBER.format("true")),
    ("train: {steps: }", NUMBER.format("nothing")),
    ("train: {steps: [1]}", NUMBER.format("a list")),
    ("train: {steps: {a: 1}}", NUMBER.format("a mapping")),
    ("train: {steps: '100'}", NUMBER.format("'100'")),
    ("train: {steps: 010}", NUMBER.format("'010'")),
    ("train: {steps: 1:30}", NUMBER.format("'1:30'")),
    ("train: {steps: " + "x" * 500 + "}", NUMBER.format("'" + "x" * 40 + "...'")),
    ("train: {learning_rate: fast}", RATE.format("'fast'")),
    ("train: {learning_rate: 0}", RATE.format("0")),
    ("train: {learning_rate: true}", RATE.format("true")),
    ("train: {learning_rate: .nan}", RATE.format("nan")),
    ("train: {learning_rate: .inf}", RATE.format("inf")),
    (
        "train: {weight_decay: -0.1}",
        "recipe.yaml: train.weight_decay: expected a number of at least 0, got -0.1 (write a number such as 0.0)",
    ),
    (
        "train: {warmup_steps: -1}",
        "recipe.yaml: train.warmup_steps: expected an integer of at least 0, got -1 (write a number such as 0)",
    ),
    ("seed: -1", "recipe.yaml: seed: expected an integer from 0 to 4294967295, got -1 (write a number such as 0)"),
    (
        "seed: 4294967296",
        "recipe.yaml: seed: expected an integer from 0 to 4294967295, got 4294967296 (write a number such as 0)",
    ),
    (
        "train: {mode: lora, rank: 0}",
        "recipe.yaml: train.rank: expected an integer above 0, got 0 (write a number such as 8)",
    ),
    # true and false
    (
        "train: {gradient_checkpointing: 1}",
        "recipe.yaml: train.gradient_checkpointing: expected true or false, got 1 (write true or false)",
    ),
    (
        "data: {name: x, preference: maybe}",
        "recipe.yaml: data.preference: expected true or false, got 'maybe' (write true or false)",
    ),
    # words
    ("train: {mode: slise}", "recipe.yaml: train.mode: unknown value 'slise' (did you mean 'slice'?)"),
    ("train: {mode: qqq}", "recipe.yaml: train.mode: unknown value 'qqq' (one of: freeze, lora, slice, subspace)"),
    (
        "train: {mode: 3}",
        "recipe.yaml: train.mode: expected slice, freeze, lora or subspace, got 3 (write a word such as slice)",
    ),
    (
        "train: {trainer: [sft]}",
        "recipe.yaml: train.trainer: expected sft, dpo or grpo, got a list (write a word such as sft)",
    ),
    ("train: {lr_scheduler: cosin}", "recipe.yaml: train.lr_scheduler: unknown value 'cosin' (did you mean 'cosine'?)"),
    ("dtype: fp16", "recipe.yaml: dtype: unknown value 'fp16' (one of: bfloat16, float32)"),
    ("control: no", "recipe.yaml: control: expected random or none, got false (write none)"),
    ("control: off", "recipe.yaml: control: expected random or none, got false (write none)"),
    ("control: ~", "recipe.yaml: control: expected random or none, got nothing (write none)"),
    (
        "localize: {method: ~}",
        f"recipe.yaml: localize.method: expected one of {len(CATALOGUE)} words, got nothing (write a word such as ablation)",
    ),
    (
        "localize: {method: qqqqqqqq}",
        "recipe.yaml: localize.method: unknown value 'qqqqqqqq' (one of: ablation, activation, angular, attribution, "
        "block_influence, coherence, contrast, direct_logit, eap, execution_depth, fisher, frequency, gates, gradient, "
        f"gradient_norm, integrated_gradients, logit_lens, low_rank, magnitude, massive, ... ({len(CATALOGUE)} in all))",
    ),
    ("control: randm", "recipe.yaml: control: unknown value 'randm' (did you mean 'random'?)"),
    ("localize: {method: gradint}", "recipe.yaml: localize.method: unknown value 'gradint' (did you mean 'gradient'?)"),
    (
        "train: {trainer: [sft], arguments: {adam_beta1: 0.9}}",
        "recipe.yaml: train.trainer: expected sft, dpo or grpo, got a list (write a word such as sft)",
    ),
    (
        "train: {prefix_cache: 2.5}",
        "recipe.yaml: train.prefix_cache: expected auto, none or a size, got 2.5 (write 1GB)",
    ),
    ("select: {strategy: shuffle}", "recipe.yaml: select.strategy: unknown value 'shuffle' (did you mean 'shuffled'?)"),
    (
        "select: {strategy: no}",
        "recipe.yaml: select.strategy: expected top, bottom, random, shuffled, even or random_even, got false (write a word such as top)",
    ),
    # text
    ("name: 3", "recipe.yaml: name: expected text, got 3 (put it in quotes)"),
    ("name: a/b", "recipe.yaml: name: 'a/b' cannot name a folder (use up to 100 letters, digits, - and _)"),
    ("name: ..", "recipe.yaml: name: '..' cannot name a folder (use up to 100 letters, digits, - and _)"),
    (
        "name: " + "x" * 101,
        f"recipe.yaml: name: '{'x' * 40}...' cannot name a folder (use up to 100 letters, digits, - and _)",
    ),
    ("model: no", "recipe.yaml: model: expected text, got false (put it in quotes)"),
    ("model: ''", "recipe.yaml: model: expected text, got '' (write some or leave the key out)"),
    ("model:", "recipe.yaml: model: expected text, got nothing (write some or leave the key out)"),
    ("output: [a]", "recipe.yaml: output: expected text, got a list (write a single text)"),
    (
        "model: https://example.org/m",
        "recipe.yaml: model: 'https://example.org/m' is a URL, and these are not read (write a hub id or a path)",
    ),
    ("data: {name: x, contains: 5}", "recipe.yaml: data.contains: expected text, got 5 (put it in quotes)"),
    ("localize: {retain: off}", "recipe.yaml: localize.retain: " + KEPT.format("false", "write none")),
    (
        "localize: {retain: selff}",
        "recipe.yaml: localize.retain: " + KEPT.format("'selff'", "did you mean 'self'?"),
    ),
    (
        "evaluate: {retention: x.doc}",
        "recipe.yaml: evaluate.retention: " + KEPT.format("'x.doc'", SAMPLED),
    ),
    # budgets and kinds
    *[
        (f"select: {{budget: {text}}}", BUDGET.format(got))
        for text, got in {
            "ten": "'ten'",
            "0": "0",
            "101%": "'101%'",
            "-1%": "'-1%'",
            "true": "true",
            "[1%]": "a list",
            "": "nothing",
            ".nan": "nan",
        }.items()
    ],
    ("select: {kinds: head}", "recipe.yaml: select.kinds: expected a list, got 'head' (write [head, neuron])"),
    ("select: {kinds: []}", "recipe.yaml: select.kinds: an empty list chooses nothing (write [head, neuron])"),
    ("select: {kinds: [head, head]}", "recipe.yaml: select.kinds: a kind is written twice (write [head])"),
    ("select: {kinds: [heads]}", "recipe.yaml: select.kinds: unknown value 'heads' (did you mean 'head'?)"),
    (
        "select: {kinds: [[head]]}",
        "recipe.yaml: select.kinds: expected layer, head or neuron, got a list (write a word such as layer)",
    ),
    *[
        (
            f"train: {{prefix_cache: {text}}}",
            f"recipe.yaml: train.prefix_cache: expected auto, none or a size, got {shown} (write 1GB)",
        )
        for text, shown in {
            "big": "'big'",
            "0": "0",
            "-1": "-1",
            "true": "true",
            "[1GB]": "a list",
            "": "nothing",
        }.items()
    ],
    (
        "select: {first_layer: -1}",
        "recipe.yaml: select.first_layer: expected an integer of at least 0, got -1 (write a number such as 0)",
    ),
    # options
    (
        "data: {name: x, options: [1]}",
        "recipe.yaml: data.options: expected a mapping of options, got a list (write it as {key: value})",
    ),
    (
        "data: {name: x, options: {a: [1]}}",
        "recipe.yaml: data.options.a: expected a number, text, true or false, got a list (write a single value)",
    ),
    (
        "localize: {options: {a: .inf}}",
        "recipe.yaml: localize.options.a: expected a number, text, true or false, got inf (write a single value)",
    ),
    # right alone, wrong together
    ("data: {source: file}", "recipe.yaml: data.path: missing, source file needs one (write path: examples.jsonl)"),
    ("data: {source: hub}", "recipe.yaml: data.name: missing, source hub needs one (write name: owner/dataset)"),
    ("data: {}", "recipe.yaml: data.name: missing, source reasoning_gym needs one (write name: chain_sum)"),
    (
        "quantization: nf4\ntrain: {mode: freeze}",
        "recipe.yaml: quantization: mode freeze trains the weights themselves (write none, or mode: slice)",
    ),
    ("quantization: int4", "recipe.yaml: quantization: unknown value 'int4' (did you mean 'int8'?)"),
    (
        "train: {rank: 4, mode: freeze}",
        "recipe.yaml: train.rank: mode freeze has none (remove it, or write mode: slice or mode: lora)",
    ),
    (
        "localize: {retain: refusal}",
        "recipe.yaml: localize.retain: " + KEPT.format("'refusal'", "did you mean 'refusals'?"),
    ),
    (
        "localize: {method: contrast, retain: none}\ntrain: {mode: slice}",
        "recipe.yaml: localize.retain: method contrast compares the task with another set, and there is none (write self, "
        "a file or a sample)",
    ),
    (
        "localize: {retain: 'a.jsonl, refusals'}\ntrain: {mode: slice}",
        "recipe.yaml: localize.retain: method attribution holds the task against one text (name one, or write method: "
        "specificity)",
    ),
    *(
        (
            f"data: {{name: x, preference: true}}\nlocalize: {{method: {method}, retain: none}}\n"
            "train: {trainer: dpo, mode: slice}",
            f"recipe.yaml: localize.retain: method {method} compares the task with another set, and there is none "
            "(write self, a file or a sample)",
        )
        for method in ("contrast", "specificity", "natural_gain")
    ),
    (
        "train: {trainer: dpo}",
        "recipe.yaml: data.preference: trainer dpo needs pairs of answers (write preference: true)",
    ),
    (
        "data: {name: x, preference: true}",
        "recipe.yaml: data.preference: trainer sft learns single answers (write preference: false, or trainer: dpo)",
    ),
    # not even YAML
    ("seed: 1\nseed: 2", "recipe.yaml: line 3: 'seed' is written twice (keep one; the first is on line 2)"),
    ("train: {steps: 1, steps: 1}", "recipe.yaml: line 2: 'steps' is written twice (keep one; the first is on line 2)"),
    ("1: 2", "recipe.yaml: line 2: a key must be text, got '1' (put it in quotes)"),
    ("on: 2", "recipe.yaml: line 2: a key must be text, got 'on' (put it in quotes)"),
    ("[a]: 2", "recipe.yaml: line 2: a key must be text, got a list or mapping (put it in quotes)"),
    ("model: !x a", "recipe.yaml: line 2: the tag '!x' is not read (remove it, or put the text in quotes)"),
    (
        "model: !!python/object/apply:os.system [ls]",
        "recipe.yaml: line 2: the tag '!!python/object/apply:os.system' is not read "
        "(remove it, or put the text in quotes)",
    ),
    ("seed: !!int 3", "recipe.yaml: line 2: the tag '!!int' is not read (remove it, or put the text in quotes)"),
    *[
        (
            f"model: {text}",
            "recipe.yaml: line 2: anchors (&) and aliases (*) are not read (write the value out, or put it in quotes)",
        )
        for text in ("&a b", "*a", "[&a b, *a]")
    ],
    ("---\nseed: 1", "recipe.yaml: line 2: a second document begins (one recipe is one document)"),
    (
        "model: a: b",
        "recipe.yaml: line 2: unexpected ':' (check this line and the one above; put text with ': ' in quotes)",
    ),
    ("train:\n\tsteps: 1", "recipe.yaml: line 3: a tab (indent with spaces)"),
    (
        "train:\n  steps: 1\n mode: x",
        "recipe.yaml: line 4: not aligned with the lines above (indent the keys of a section alike)",
    ),
    ("train: {steps: 1", "recipe.yaml: line 3: a [ or { is not closed (close it)"),
    ("model: 'a", "recipe.yaml: line 3: a quote is not closed (close it)"),
    (
        "model: @a",
        "recipe.yaml: line 2: not valid YAML, found character '@' that cannot start any token "
        "(put text with special characters in quotes)",
    ),
    ("model: a\x07b", "recipe.yaml: line 2: the control character '\\x07' (remove it)"),
    (r'model: "a\0b"', "recipe.yaml: line 2: the control character '\\x00' (remove it)"),
    (r'model: "\ud800"', "recipe.yaml: line 2: the control character '\\ud800' (remove it)"),
    (r'model: "\UFFFFFFFF"', "recipe.yaml: line 1: not valid YAML (check the escapes in quoted text)"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text[:40] for text, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    data = "" if text.startswith("data:") else "data: {name: chain_sum}\n"
    assert errors_of(tmp_path, f"{data}{text}\n") == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "recipe.yaml: empty (start from a shipped one: guided-ft recipes copy quickstart)"),
        (b"# nothing\n", "recipe.yaml: empty (start from a shipped one: guided-ft recipes copy quickstart)"),
        (b"- a\n- b\n", "recipe.yaml: not a mapping (write lines such as 'seed: 0')"),
        (b"quickstart\n", "recipe.yaml: not a mapping (write lines such as 'seed: 0')"),
        (b"seed: 1\nmodel: \xff\n", "recipe.yaml: line 2: not UTF-8 text (save the file as UTF-8)"),
        ("seed: 1\n".encode("utf-16"), "recipe.yaml: line 1: not UTF-8 text (save the file as UTF-8)"),
        (b"#" * 1_000_001, "recipe.yaml: larger than 1000000 bytes (a recipe is a short file)"),
        (b"a: " + b"[" * 5000, "recipe.yaml: line 1: nested more than 20 deep (a recipe needs 3 levels)"),
        (b"- " * 5000, "recipe.yaml: line 1: nested more than 20 deep (a recipe needs 3 levels)"),
        (b"a:\n" + b"- 1\n" * 20_000, "recipe.yaml: line 9999: more than 10000 values (a recipe is a short file)"),
    ],
    ids=["empty", "comment", "list", "word", "latin-1", "utf-16", "large", "deep", "deep list", "long"],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, raw: bytes, message: str) -> None:
    assert errors_of(tmp_path, raw) == message


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    bomb = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30))
    assert errors_of(tmp_path, bomb).startswith("recipe.yaml: line 1: anchors (&) and aliases (*) are not read")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {name: x}\n", encoding="utf-8-sig")
    assert Recipe.load(tmp_path / "a.yaml").data.name == "x"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "seed: x\nselect: {budgt: 1%}\ntrain: {steps: 0, rank: 3, mode: freeze, trainer: dpo}\n"
    assert errors_of(tmp_path, text).splitlines() == [
        "recipe.yaml: seed: expected an integer from 0 to 4294967295, got 'x' (write a number such as 0)",
        "recipe.yaml: select.budgt: unknown key (did you mean 'budget'?)",
        NUMBER.format("0"),
        "recipe.yaml: data.name: missing, source reasoning_gym needs one (write name: chain_sum)",
        "recipe.yaml: train.rank: mode freeze has none (remove it, or write mode: slice or mode: lora)",
        "recipe.yaml: data.preference: trainer dpo needs pairs of answers (write preference: true)",
    ]


def test_one_key_has_one_line(tmp_path: Path) -> None:
    """Of the wrong type and in the wrong place: the first is said."""
    told = errors_of(tmp_path, "data: {source: file, path: x.jsonl, subset: 3}")
    assert told == "recipe.yaml: data.subset: expected text, got 3 (put it in quotes)"


def test_a_flood_of_problems_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    meant = mends.did_you_mean
    monkeypatch.setattr(mends, "did_you_mean", lambda *words: (asked.append(words), meant(*words))[1])
    lines = errors_of(tmp_path, "".join(f"k{i}: 1\n" for i in range(4000))).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "recipe.yaml: 3951 more problems (mend these first)"
    # What is not shown is not worked out.
    assert 0 < len(asked) <= 50


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("quickstrt", "'quickstrt': no shipped recipe has this name (did you mean 'quickstart'?)"),
        ("no/such.yaml", "such.yaml: cannot be read: No such file or directory (check the path)"),
        ("a\0.yaml", "'a\\x00.yaml': cannot be read: not a file name (check the path)"),
        ("no/such", "such: cannot be read: No such file or directory (check the path)"),
    ],
)
def test_a_recipe_that_is_not_there(asked: str, message: str) -> None:
    with pytest.raises(GuidedError) as caught:
        Recipe.load(asked)
    assert str(caught.value) == message
