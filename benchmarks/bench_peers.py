"""One-pass attribution beside TransformerLens and nnsight, where they are installed.

    pip install transformer-lens nnsight     # in an environment of their own: they bring many packages
    python benchmarks/bench_peers.py --out benchmarks/results/peers.jsonl
    python benchmarks/bench_peers.py --out benchmarks/results/peers.jsonl --table

The task is indirect object identification in pairs of 16 tokens (``localization.tasks.indirect_object``), the scores
those of all heads, with sign. Two questions: whether the scores are ours, as the largest difference relative to the
largest score; and what they cost, as medians of ratios of CPU time to the same question asked of guided_ft, in turns.

TransformerLens takes pairs one after the other, so it is compared with guided_ft in one batch and pair by pair. nnsight
runs a batch; what it computes is written by hand here, once as its guide does it (every parameter trainable, all
logits) and once with what guided_ft does too (weights frozen, logits where the answer is).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from localization.cost import seconds_of
from localization.rows import Rows
from localization.tasks import answered, indirect_object, pairs_of

from guided_ft import Anatomy, Task, localize
from guided_ft.models import load_model, load_tokenizer
from guided_ft.system.places import locate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = Callable[[], np.ndarray]


def ours(model: PreTrainedModel, task: Task, **options: Any) -> Scores:
    return lambda: localize(model, task, "attribution", None, ("head",), signed=True, **options).of("head")


def transformer_lens(name: str, task: Task) -> dict[str, Scores]:
    """Attribution patching; the gradient is taken where guided_ft takes it, on the prompt that is answered."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import attribution_patch

    bridge = TransformerBridge.boot_transformers(locate(name), device="cpu", tokenizer=load_tokenizer(name))
    bridge.eval()
    shape = bridge.cfg.n_layers, bridge.cfg.n_heads

    def scores() -> np.ndarray:
        total = np.zeros(shape)
        # Its metric sees logits and no index, so that pairs with answers of their own go one by one.
        for (asked,), (other,) in zip(task.examples, task.corrupted or (), strict=True):
            answer, at = asked.ids[-1], len(asked.ids) - 2
            found = attribution_patch(
                bridge,
                torch.tensor([other.ids]),
                torch.tensor([asked.ids]),
                lambda logits, at=at, answer=answer: -logits.reshape(-1, logits.shape[-1])[at].log_softmax(-1)[answer],
            )
            for node, score in found.node_scores.items():
                if node.kind == "attn_head_out":
                    total[node.layer, node.head] += float(score)
        return total / len(task)

    return {"attribution_patch, pair by pair": scores}


def nnsight(name: str, task: Task) -> dict[str, Scores]:
    """Gradient x activation of all heads, with the gradients that nnsight's ``backward`` context hands out."""
    from nnsight import LanguageModel

    model = load_model(name)
    lens = LanguageModel(model, tokenizer=load_tokenizer(name))
    anatomy = Anatomy.of(model)

    def scores(frozen: bool) -> np.ndarray:
        model.requires_grad_(not frozen)
        total = np.zeros((anatomy.num_layers, anatomy.num_heads))
        for batch in task.batches():
            products: Any = {}
            answer = batch["labels"][:, -1]
            inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
            more = {"logits_to_keep": torch.tensor([batch["input_ids"].shape[1] - 2])} if frozen else {}
            with lens.trace(inputs, **more):
                embedded = lens.model.embed_tokens.output
                if frozen:
                    embedded.requires_grad_(True)
                inside = [layer.self_attn.o_proj.input for layer in lens.model.layers]
                logits = lens.output.logits[:, 0 if frozen else -2]
                loss = torch.nn.functional.cross_entropy(logits, answer, reduction="sum")
                # nnsight gives every object the method.
                fresh: Any = dict.fromkeys(range(len(inside)))
                kept = fresh.save()
                with loss.backward():
                    for i in reversed(range(len(inside))):
                        kept[i] = inside[i] * inside[i].grad
            products = kept
            for i, product in products.items():
                parts = product.detach().unflatten(-1, (anatomy.num_heads, -1)).sum((0, 1, 3))
                total[i] -= parts.double().numpy()
        model.requires_grad_(False)
        model.zero_grad()
        return total / len(task)

    return {"as in its guide": lambda: scores(False), "weights frozen, one logit": lambda: scores(True)}


PEERS = {"transformer_lens": transformer_lens, "nnsight": nnsight}


def measure(name: str, rows: Rows, examples: int, repeats: int) -> None:
    model, tokenizer = load_model(name), load_tokenizer(name)
    task = pairs_of(answered(indirect_object(tokenizer, None), tokenizer)[:examples], examples, "indirect object")
    single = dataclasses.replace(task, batch_size=1)
    for peer, make in PEERS.items():
        try:
            told = f"{peer} {version(peer)}"
        except PackageNotFoundError:
            print(f"{peer}: not installed, left out")
            continue
        if rows.has(what=told):
            continue
        replace = "corrupted" if peer == "transformer_lens" else "zero"
        mine = {"one batch": ours(model, task, replace=replace), "pair by pair": ours(model, single, replace=replace)}
        for label, theirs in make(name, task).items():
            expected, found = mine["one batch"](), theirs()
            times: dict[str, list[float]] = {"theirs": [], **{k: [] for k in mine}}
            for _ in range(repeats):
                for key, run in {"theirs": theirs, **mine}.items():
                    times[key].append(seconds_of(run))
            ratios = {k: statistics.median(t / m for t, m in zip(times["theirs"], times[k], strict=True)) for k in mine}
            rows.later(
                kind="peer",
                peer=peer,
                what=told,
                how=label,
                examples=examples,
                difference=float(np.abs(found - expected).max() / np.abs(expected).max()),
                cpu_seconds=statistics.median(times["theirs"]),
                ratio=ratios["one batch"],
                ratio_pair_by_pair=ratios["pair by pair"],
                repeats=repeats,
            )
        rows.write()


def table(rows: Rows) -> str:
    lines = ["| beside guided_ft | CPU time | of the same pair by pair | largest difference of scores |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for r in rows.rows:
        lines.append(
            f"| {r['what']}: {r['how']} | {r['ratio']:.2f} | {r['ratio_pair_by_pair']:.2f} | {r['difference']:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    rows = Rows(chosen.out)
    if not chosen.table:
        torch.set_num_threads(1)
        measure(chosen.model, rows, chosen.examples, chosen.repeats)
    print(table(rows))


if __name__ == "__main__":
    main()
