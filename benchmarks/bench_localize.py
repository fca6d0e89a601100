"""Cost and agreement of every scorer, beside captum.

    python benchmarks/bench_localize.py --out benchmarks/results/localize.jsonl                    # resumable
    python benchmarks/bench_localize.py --out benchmarks/results/localize.jsonl --only agreement  # cost, memory, verify
    python benchmarks/bench_localize.py --out benchmarks/results/localize.jsonl --relations capital_city.json
    python benchmarks/bench_localize.py --out benchmarks/results/localize.jsonl --table            # only the tables

Cost: CPU seconds of each method relative to the same forward and backward pass with gradients of the activations only
(weights frozen, nothing recorded). The two are measured in turn, over and over, and the table shows medians of their
ratios, since neighbours on a shared machine come and go. Memory: each method in a process of its own, peak resident
memory above that of the plain pass, relative to it.

Agreement: rank correlation (Spearman), Pearson correlation and the share of the top 20 (of layers: 10) in common with
the exact effects of zero ablation, over all heads, all layers and 150 neurons drawn at random, on three tasks. The
ceiling is what a perfect method could reach with so few examples (from the agreement of exact scores on two halves).
Beside it, the rank correlation with activation patching from the corrupted prompts.

Verification: CPU seconds of attribution with ``verify=60`` (60 heads and a sample of 15 more) relative to the full
exact sweep of all heads, one after the other, on each of the three tasks.

Each figure is one row of the file; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guided_ft import Anatomy, Component, Task, localize
from guided_ft.artifact import write_text
from guided_ft.data import load_rows
from guided_ft.machine import machine, versions
from guided_ft.models import load_model, load_tokenizer
from guided_ft.recipe import Data
from guided_ft.scoremap import ScoreMap, pearson, ranks
from guided_ft.scorers import catalogue
from guided_ft.scorers.ablation import effects
from guided_ft.scorers.self_text import self_text
from guided_ft.scorers.stability import stability
from guided_ft.scorers.tap import Tap

SHAPES = {"16x5": (16, 5), "4x128": (4, 128)}
"""Rows and tokens of the batches that cost is measured on."""

MEMORY_SHAPE = (8, 128)

VARIANTS: dict[str, dict[str, Any]] = {
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

SLOW = 4
"""What costs more plain passes than this is measured once, on the first shape only, but for what is exact."""

EXACT = ("ablation of all heads", "attribution, verify=60")

NEURONS = 150
"""So many of all neurons, drawn at random, are ablated exactly."""

REPLACED = {"head": ("zero", "corrupted"), "layer": ("zero", "corrupted"), "neuron": ("zero",)}
"""Exact effects to agree with: of zero ablation, and of activation patching from the corrupted prompt."""

RANDOM_SEEDS = 20

NAMES = ["Mary", "John", "Tom", "James", "Anna", "Paul", "Sarah", "David", "Mark", "Peter", "Laura", "Kate"]


# -- tasks ------------------------------------------------------------------------------------------------------------
def capitals(tokenizer: Any, relations: str | None) -> list[dict[str, Any]]:
    """A relation: capitals, from a file of evandez/relations or a list of our own."""
    known = (
        "France Paris Italy Rome Japan Tokyo Spain Madrid Egypt Cairo Cuba Havana Peru Lima Greece Athens Norway Oslo "
    )
    known += "Russia Moscow Austria Vienna Ireland Dublin China Beijing Portugal Lisbon Germany Berlin Poland Warsaw"
    words = known.split()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    template = "The capital of {} is"
    if relations:
        data = json.loads(Path(relations).read_text())
        template = data["prompt_templates"][-1]
        pairs = [(sample["subject"], sample["object"]) for sample in data["samples"]]
    rows = [{"prompt": template.format(a), "completion": f" {b}"} for a, b in pairs]
    return _paired([row for row in rows if _length(tokenizer, row["completion"]) <= 2], tokenizer)


def sums(tokenizer: Any, relations: str | None) -> list[dict[str, Any]]:
    """Arithmetic: the problems of reasoning-gym's ``chain_sum``, without its words, after one that is solved."""
    asked = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    found, _ = load_rows(
        Data(source="reasoning_gym", name="chain_sum", options=asked, contains=" + ", train=200, test=1)
    )
    (first, answer), *rest = [(row["prompt"].split(": ")[1], row["completion"]) for row in found]
    rows = [{"prompt": f"{first}{answer}\n{prompt}", "completion": completion} for prompt, completion in rest]
    return _paired(rows, tokenizer)


def indirect_object(tokenizer: Any, relations: str | None) -> list[dict[str, Any]]:
    """Indirect object identification (Wang et al. 2022, arXiv 2211.00593); corrupted: the names change places."""
    rng = np.random.default_rng(0)
    names = [name for name in NAMES if _length(tokenizer, f" {name}") == 1]
    rows = []
    for place, thing in (("store", "drink"), ("park", "book"), ("school", "letter"), ("office", "gift")) * 16:
        a, b = (str(name) for name in rng.choice(names, 2, replace=False))
        told = f"Then, {a} and {b} went to the {place}. {{}} gave a {thing} to"
        rows.append({"prompt": told.format(b), "corrupted_prompt": told.format(a), "completion": f" {a}"})
    return rows


def _length(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _paired(rows: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Give each row the prompt of another one of the same length and another answer; drop those that find none."""
    found = []
    for i, row in enumerate(rows):
        others = [*rows[i + 1 :], *rows[:i]]
        size = _length(tokenizer, row["prompt"])
        fits = (o for o in others if o["completion"] != row["completion"] and _length(tokenizer, o["prompt"]) == size)
        other = next(fits, None)
        if other:
            found.append({**row, "corrupted_prompt": other["prompt"]})
    return found


TASKS: dict[str, Callable[[Any, str | None], list[dict[str, Any]]]] = {
    "capitals": capitals,
    "sums": sums,
    "indirect object": indirect_object,
}


def answered(rows: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Rows as token ids, so that no end token is scored beside the one that is asked."""
    made = []
    for row in rows:
        prompt, other = (tokenizer(row[key])["input_ids"] for key in ("prompt", "corrupted_prompt"))
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        if len(prompt) == len(other):
            labels = [-100] * len(prompt) + answer
            made.append({"input_ids": prompt + answer, "labels": labels, "corrupted_ids": other + answer})
    return made


# -- rows -------------------------------------------------------------------------------------------------------------
class Rows:
    """The results so far, by what identifies them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]

    def find(self, **keys: Any) -> dict[str, Any] | None:
        return next((row for row in self.rows if all(row.get(k) == v for k, v in keys.items())), None)

    def has(self, **keys: Any) -> bool:
        return self.find(**keys) is not None

    def later(self, **row: Any) -> None:
        """Add a row that ``write`` writes, so that rows that belong together come together."""
        self.rows.append({**row, "machine": machine(), "versions": versions()})
        print({k: v for k, v in row.items() if k != "halves"}, flush=True)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in self.rows))

    def add(self, **row: Any) -> None:
        self.later(**row)
        self.write()


# -- cost -------------------------------------------------------------------------------------------------------------
def plain(model: Any, task: Task) -> None:
    """The pass that everything is measured against."""
    with Tap(model, start_graph=True):
        for batch in task.batches():
            task.loss(task.quantity(model, batch)).sum().backward()


def captum_all(model: Any, task: Task) -> None:
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


def of_shape(rows: int, tokens: int) -> tuple[Task, Task]:
    """Random text of one size, with pairs, and a second set."""
    rng = np.random.default_rng(0)

    def task(seed: int) -> Task:
        made = []
        for _ in range(rows):
            ids, other = (rng.integers(1000, 20000, tokens).tolist() for _ in range(2))
            made.append(
                {"input_ids": ids, "labels": [-100] * (tokens - 1) + ids[-1:], "corrupted_ids": [*other[:-1], ids[-1]]}
            )
        return pairs_of(made, rows)

    return task(0), task(1)


def pairs_of(rows: list[dict[str, Any]], batch_size: int, name: str = "task") -> Task:
    """A Task of ready ids, with corrupted ones."""
    from guided_ft.formats import Tokens

    examples = tuple((Tokens(tuple(r["input_ids"]), tuple(r["labels"])),) for r in rows)
    corrupted = tuple((Tokens(tuple(r["corrupted_ids"]), tuple(r["labels"])),) for r in rows)
    return Task(examples, batch_size=batch_size, name=name, corrupted=corrupted)


def methods(against: Task) -> dict[str, dict[str, Any]]:
    """All methods and their variants, with the second set where one is needed."""
    wanted = {name: {} for name in catalogue.CATALOGUE if name != "ablation"} | VARIANTS
    found = {}
    for label, options in wanted.items():
        needs = catalogue.find(options.get("method", label)).against
        found[label] = {**options, **({"against": against} if needs else {})}
    return found


def runs(model: Any, task: Task, against: Task) -> dict[str, Callable[[], Any]]:
    """What to measure, by name."""
    found: dict[str, Callable[[], Any]] = {"captum LayerGradientXActivation": lambda: captum_all(model, task)}
    for label, options in methods(against).items():
        name, rest = options.get("method", label), {k: v for k, v in options.items() if k != "method"}
        found[label] = lambda name=name, rest=rest: localize(model, task, name, None, **rest)  # type: ignore[misc]
    found["together: " + ", ".join(TOGETHER)] = lambda: localize(model, task, methods=TOGETHER, retain=None)
    found[EXACT[0]] = lambda: localize(model, task, "ablation", None, ("head",))
    found[EXACT[1]] = lambda: localize(model, task, "attribution", None, ("head",), verify=60)
    return found


def cost(model: Any, rows: Rows, repeats: int, only: set[str]) -> None:
    for shape, size in SHAPES.items():
        task, against = of_shape(*size)
        wanted = {k: f for k, f in runs(model, task, against).items() if not only or k in only}
        todo = {k: f for k, f in wanted.items() if not rows.has(kind="cost", shape=shape, method=k)}
        if todo:
            plain(model, task)
        for label, run in todo.items():
            shorter = rows.find(kind="cost", shape=next(iter(SHAPES)), method=label)
            if label not in EXACT and shorter and shorter["ratio"] > SLOW:
                continue
            # The first one warms up, unless it takes so long that this is lost in it.
            pairs = [_pair(model, task, run)]
            if pairs[0][1] < SLOW * pairs[0][0]:
                pairs = [_pair(model, task, run) for _ in range(repeats)]
            ratios = [mine / base for base, mine in pairs]
            row = {
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "repeats": len(ratios),
            }
            rows.add(kind="cost", shape=shape, method=label, cpu_seconds=statistics.median(m for _, m in pairs), **row)


def _pair(model: Any, task: Task, run: Callable[[], Any]) -> tuple[float, float]:
    return seconds_of(lambda: plain(model, task)), seconds_of(run)


def seconds_of(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def memory(model: Any, rows: Rows, only: set[str]) -> None:
    """Peak resident memory of each method, in a forked process of its own."""
    task, against = of_shape(*MEMORY_SHAPE)
    todo = {"plain": lambda: plain(model, task), **runs(model, task, against)}
    slow = {"gates", "gates l0", "ablation of all heads", "attribution, verify=60", "sensitivity"}
    for label, run in todo.items():
        wanted = label == "plain" or not only or label in only
        if wanted and label not in slow and not rows.has(kind="memory", method=label):
            rows.add(kind="memory", method=label, peak_mib=_peak(run))


def _peak(run: Callable[[], Any]) -> float:
    """MiB above what was in use before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = _status("VmRSS")
            run()
            os.write(writer, f"{(_status('VmHWM') - before) / 1024:.1f}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, 100).decode()
    os.close(reader)
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError("the measured process died")
    return float(told)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":")))


# -- agreement --------------------------------------------------------------------------------------------------------
def agreement(model: Any, tokenizer: Any, rows: Rows, examples: int, relations: str | None, only: set[str]) -> None:
    anatomy = Anatomy.of(model)
    rng = np.random.default_rng(0)
    drawn = [
        Component("neuron", int(i) // anatomy.num_neurons, int(i) % anatomy.num_neurons)
        for i in sorted(rng.choice(anatomy.num_layers * anatomy.num_neurons, NEURONS, replace=False).tolist())
    ]
    components = {"head": anatomy.components("head"), "layer": anatomy.components("layer"), "neuron": drawn}
    text = self_text(model, num_examples=32, num_tokens=32)
    of_weights: dict[str, list[ScoreMap]] = {}
    for name, make in TASKS.items():
        task = pairs_of(answered(make(tokenizer, relations), tokenizer)[:examples], 8, name)
        wanted = {k: o for k, o in methods(text).items() if not only or k in only}
        todo = {k: o for k, o in wanted.items() if not rows.has(kind="agreement", task=name, method=k)}
        if not todo:
            continue
        truth = {
            (kind, replace): exact(model, task, rows, kind, chosen, replace)
            for kind, chosen in components.items()
            for replace in REPLACED[kind]
        }
        for label, options in todo.items():
            began = time.process_time()
            seeds = RANDOM_SEEDS if label == "random" else 1
            maps = of_weights.get(label) or [
                localize(model, task, methods={label: options}, retain=None, seed=seed)[label] for seed in range(seeds)
            ]
            if not catalogue.find(options.get("method", label)).needs_data:
                of_weights[label] = maps
            seconds = round(time.process_time() - began, 2)
            for (kind, replace), effect in truth.items():
                if kind in maps[0].kinds:
                    found = [np.array([scores.score(c) for c in components[kind]]) for scores in maps]
                    keys = {"task": name, "method": label, "component": kind, "replace": replace}
                    rows.later(kind="agreement", **keys, cpu_seconds=seconds, **_agreement(found, effect))
            rows.write()
        for kind in [kind for kind, replace in truth if replace == "corrupted"]:
            keys = {"task": name, "method": "exact, zero", "component": kind, "replace": "corrupted"}
            if not rows.has(kind="agreement", **keys):
                rows.add(kind="agreement", **keys, **_agreement([truth[kind, "zero"]], truth[kind, "corrupted"]))


def exact(model: Any, task: Task, rows: Rows, kind: str, chosen: list[Component], replace: str) -> np.ndarray:
    """The exact effects of components, from the file if they are there."""
    keys = {"kind": "exact", "task": task.name, "component": kind, "replace": replace}
    row = rows.find(**keys)
    if row is None:
        began = time.process_time()
        halves, _ = effects(model, Anatomy.of(model), task, chosen, replace=replace)
        seconds = round(time.process_time() - began, 2)
        told = stability({kind: halves[0]}, {kind: halves[1]})[kind]
        row = keys | {"examples": len(task), "cpu_seconds": seconds, "overlap": _overlap(*halves)} | told
        if kind == "neuron":
            row["neurons"] = len(chosen)
        row["halves"] = [[float(f"{x:.5g}") for x in half] for half in halves]
        rows.add(**row)
    return np.sum(row["halves"], 0) / len(task)


def _agreement(found: list[np.ndarray], effect: np.ndarray) -> dict[str, float]:
    """Means over several maps (of random ones)."""
    told = [
        (pearson(ranks(scores), ranks(effect)), pearson(scores, effect), _overlap(scores, effect)) for scores in found
    ]
    return dict(zip(("spearman", "pearson", "overlap"), np.mean(told, 0).round(4).tolist(), strict=True))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share in common of the top 20, or of the top third of fewer than 60."""
    k = min(20, len(a) // 3)
    best = [set(np.argsort(-x, kind="stable")[:k].tolist()) for x in (a, b)]
    return len(best[0] & best[1]) / k


# -- verification -----------------------------------------------------------------------------------------------------
def verification(model: Any, tokenizer: Any, rows: Rows, examples: int, relations: str | None) -> None:
    """What ``verify=60`` costs of a full sweep, and what it tells."""
    for name, make in TASKS.items():
        if rows.has(kind="verify", task=name):
            continue
        task = pairs_of(answered(make(tokenizer, relations), tokenizer)[:examples], 8, name)
        found: list[ScoreMap] = []
        once = seconds_of(lambda task=task: plain(model, task))  # type: ignore[misc]
        some = seconds_of(
            lambda task=task, found=found: found.append(  # type: ignore[misc]
                localize(model, task, "attribution", None, ("head",), verify=60)
            )
        )
        full = seconds_of(lambda task=task: localize(model, task, "ablation", None, ("head",)))  # type: ignore[misc]
        told = found[0].meta["verified"]["head"]
        chosen = {key: told[key] for key in ("spearman", "pearson", "spearman_sample", "recall", "misses")}
        costs = {"share": some / full, "sweep": full / once, "cpu_seconds": some, "ablated": len(told["components"])}
        rows.add(kind="verify", task=name, examples=len(task), **costs, **chosen)


# -- tables -----------------------------------------------------------------------------------------------------------
def table(rows: Rows) -> str:
    return "\n".join([*_cost_table(rows), "", *_verify_table(rows), *_agreement_table(rows)])


def _cost_table(rows: Rows) -> Iterable[str]:
    yield "| method | " + " | ".join(f"CPU time, {shape}" for shape in SHAPES) + " | peak memory, 8x128 |"
    yield "| --- |" + " ---: |" * (len(SHAPES) + 1)
    costs = {(r["shape"], r["method"]): r for r in rows.rows if r["kind"] == "cost"}
    peaks = {r["method"]: r["peak_mib"] for r in rows.rows if r["kind"] == "memory"}
    for label in dict.fromkeys([label for _, label in costs] + list(peaks)):
        cells = [_cell(costs.get((shape, label), {}).get("ratio"), "{:.2f}") for shape in SHAPES]
        share = peaks[label] / peaks["plain"] if label in peaks and "plain" in peaks else None
        yield f"| {label} | {' | '.join(cells)} | {_cell(share, '{:.2f}')} |"


def _verify_table(rows: Rows) -> Iterable[str]:
    found = [r for r in rows.rows if r["kind"] == "verify"]
    if not found:
        return
    yield "| `verify=60` of 270 heads | ablated | CPU time of the full sweep | full sweep in passes | recall | misses |"
    yield "| --- |" + " ---: |" * 5
    for r in found:
        counts = f"{r['ablated']} | {r['share']:.2f} | {r['sweep']:.1f} | {r['recall']:.2f} | {len(r['misses'])}"
        yield f"| {r['task']} | {counts} |"


def _agreement_table(rows: Rows) -> Iterable[str]:
    exact = {(r["task"], r["component"], r["replace"]): r for r in rows.rows if r["kind"] == "exact"}
    found = [r for r in rows.rows if r["kind"] == "agreement"]
    for kind, replaced in REPLACED.items():
        patched = "corrupted" in replaced
        yield ""
        yield f"{kind}s: Spearman / Pearson / share of the top in common with the exact effects of zero ablation"
        yield ""
        yield "| method | " + " | ".join(TASKS) + " | Spearman, mean |" + " with patching, mean |" * patched
        yield "| --- |" + " ---: |" * (len(TASKS) + 1 + patched)
        truths = {replace: [exact.get((task, kind, replace)) for task in TASKS] for replace in replaced}
        ceilings = {k: [t and t["ceiling"] for t in rows_of] for k, rows_of in truths.items()}
        means = " | ".join(_mean(ceilings[replace]) for replace in replaced)
        yield "| ceiling | " + " | ".join(_cell(c, "{:.2f}") for c in ceilings["zero"]) + f" | {means} |"
        means = " | ".join(_mean([t and t["split_half"] for t in truths[replace]]) for replace in replaced)
        yield (
            "| exact, half against half | "
            + " | ".join(_three(t, "split_half") for t in truths["zero"])
            + f" | {means} |"
        )
        cells = {(r["method"], r["replace"], r["task"]): r for r in found if r["component"] == kind}

        def spearmans(label: str, replace: str, cells: Any = cells) -> list[float]:
            return [cells[label, replace, task]["spearman"] for task in TASKS if (label, replace, task) in cells]

        labels = dict.fromkeys(label for label, _, _ in cells)
        for label in sorted(labels, key=lambda m: -float(np.mean(spearmans(m, "zero") or [9.0]))):
            told = " | ".join(_three(cells.get((label, "zero", task)), "spearman") for task in TASKS)
            yield f"| {label} | {told} | " + " | ".join(_mean(spearmans(label, k)) for k in replaced) + " |"


def _three(row: dict[str, Any] | None, first: str) -> str:
    return f"{row[first]:.2f} / {row['pearson']:.2f} / {row['overlap']:.2f}" if row else ""


def _mean(values: list[Any]) -> str:
    return f"{np.mean(values):.2f}" if values and None not in values else ""


def _cell(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--examples", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--relations", help="a file of evandez/relations for the first task")
    parser.add_argument("--only", choices=["cost", "memory", "agreement", "verify"])
    parser.add_argument("--methods", nargs="*", default=[], help="measure only these")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    rows = Rows(chosen.out)
    if not chosen.table:
        torch.set_num_threads(1)
        model, only = load_model(chosen.model), set(chosen.methods)
        if chosen.only in (None, "memory") and sys.platform == "linux":
            # First, while this process is small.
            memory(model, rows, only)
        if chosen.only in (None, "agreement"):
            agreement(model, load_tokenizer(chosen.model), rows, chosen.examples, chosen.relations, only)
        if chosen.only in (None, "verify"):
            verification(model, load_tokenizer(chosen.model), rows, chosen.examples, chosen.relations)
        if chosen.only in (None, "cost"):
            cost(model, rows, chosen.repeats, only)
    print(table(rows))


if __name__ == "__main__":
    main()
