"""Compare ways of training on the sums of the recipe ``sums``: full fine-tuning, LoRA, located and random slices.

    python benchmarks/bench_quickstart.py --out benchmarks/results/quickstart.jsonl
    python benchmarks/bench_quickstart.py --out benchmarks/results/quickstart.jsonl --table
    python benchmarks/bench_quickstart.py --out benchmarks/results/quickstart.jsonl --time

Every arm gets the same data, order, steps and seeds, and a sweep of three learning rates a factor of about three apart;
the best rate is picked on validation sums, the table shows test sums. Each run is one row of the file; a run whose row
is there is skipped, so an interrupted benchmark goes on where it stopped. ``--time`` measures one training step of
every arm, interleaved: single runs on a shared machine are minutes apart and cannot be compared.

Of the recipe are the model, the data, the method and the budget. The slices are of all layers and the rows are 800,
where the recipe has its ``first_layer`` and 200.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer

from guided_ft import Plan, Recipe, Task, localize, select
from guided_ft.models import load_model, load_tokenizer
from guided_ft.pipeline.data import load_rows
from guided_ft.pipeline.evaluate import retention
from guided_ft.scorers.self_text import self_text
from guided_ft.system.files import Json, write_text
from guided_ft.system.machine import machine, peak_bytes, versions
from guided_ft.task.answers import answers, exact_match

if TYPE_CHECKING:
    from torch import nn

PINNED = ["data.train=800", "data.test=200"]
"""Every example is seen once, and half of the held-out ones pick the rate."""

SPAN = (10.0, 3.0, 1.0)
"""Factors on an arm's lowest learning rate, the likeliest first."""


@dataclass(frozen=True)
class Arm:
    """One way of training: how to prepare the model, and the lowest learning rate of its sweep."""

    prepare: Callable[[Any, Bench, int], Any]
    lowest: float
    label: str


class Bench:
    """What all runs share: data, texts, and one map per seed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = load_tokenizer(recipe.model)
        self.train, rows = load_rows(recipe.data, recipe.seed)
        self.test, self.valid = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        self.base = self.model()
        self.text = self_text(self.base, num_examples=48, num_tokens=48, seed=1_000_000)
        self.base_loss = retention(self.base, self.text)["loss"]
        self.maps: dict[int, Any] = {}

    def model(self) -> Any:
        return load_model(self.recipe.model, dtype=self.recipe.dtype)

    def scores(self, seed: int) -> Any:
        """The two-sided map of this seed's first examples."""
        if seed not in self.maps:
            rows = self.shuffled(seed)[: self.recipe.localize.examples]
            task = Task.from_dataset(rows, self.tokenizer, batch_size=self.recipe.localize.batch_size)
            self.maps[seed] = localize(self.model(), task, self.recipe.localize.method, "self", seed=seed)
        return self.maps[seed]

    def shuffled(self, seed: int) -> list[Json]:
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed)).tolist()
        return [self.train[i] for i in order]


def _full(model: nn.Module, bench: Bench, seed: int) -> Any:
    return model


def _lora(rank: int, modules: Any) -> Callable[[Any, Bench, int], Any]:
    def prepare(model: Any, bench: Bench, seed: int) -> Any:
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM")
        return get_peft_model(model, config)

    return prepare


def _slice(strategy: str) -> Callable[[Any, Bench, int], Any]:
    def prepare(model: nn.Module, bench: Bench, seed: int) -> Any:
        chosen = bench.recipe.select
        return Plan(select(bench.scores(seed), chosen.budget, chosen.kinds, strategy, seed=seed)).attach(model)

    return prepare


ARMS = {
    "full": Arm(_full, 1e-5, "full fine-tuning"),
    "lora-r8": Arm(_lora(8, "all-linear"), 1e-4, "LoRA r8, all linear layers"),
    "lora-r2-qv": Arm(_lora(2, ["q_proj", "v_proj"]), 5e-4, "LoRA r2, q and v"),
    "slice": Arm(_slice("top"), 1e-3, "slice, located"),
    "random": Arm(_slice("random"), 1e-3, "slice, random"),
}


def run_one(bench: Bench, arm: str, rate: float, seed: int, folder: Path) -> Json:
    """Train one arm at one rate and seed, and measure it."""
    began = time.perf_counter()
    located = bench.scores(seed).meta["seconds"] if arm == "slice" else 0.0
    model = ARMS[arm].prepare(bench.model(), bench, seed)
    settings = bench.recipe.train
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=rate,
            lr_scheduler_type=settings.lr_scheduler,
            weight_decay=0.0,
            max_length=settings.max_length,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=settings.steps,
            report_to=[],
            bf16=False,
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(bench.shuffled(seed)),
        processing_class=bench.tokenizer,
    )
    for chatty in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(chatty)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    assert trainer.model is not None
    model = trainer.model.eval()
    kept = retention(model, bench.text, lambda: contextlib.nullcontext(bench.base))
    scores = {}
    for name, rows in (("valid", bench.valid), ("score", bench.test)):
        found = answers(model, bench.tokenizer, [row["prompt"] for row in rows])
        scores[name] = exact_match(found, [row["completion"] for row in rows])
    return {
        "suite": "quickstart",
        "model": bench.recipe.model,
        "task": bench.recipe.data.name,
        "arm": arm,
        "budget": bench.recipe.select.budget if arm in ("slice", "random") else None,
        "lr": rate,
        "seed": seed,
        "steps": settings.steps,
        "data_size": len(bench.train),
        **scores,
        "forgetting": kept["loss"] - bench.base_loss,
        "kl": kept["kl"],
        "seconds": round(seconds, 2),
        "localize_seconds": located,
        "wall_seconds": round(time.perf_counter() - began, 2),
        "trainable": trainable,
        "peak_bytes": peak_bytes(),
        "machine": machine(),
        "versions": versions(),
    }


def time_steps(bench: Bench, arms: list[str], rounds: int = 9) -> list[Json]:
    """Median seconds of a training step (forward, backward, fused AdamW) of each arm, round by round in turn."""
    settings = bench.recipe.train
    task = Task.from_dataset(bench.train, bench.tokenizer, batch_size=settings.batch_size)
    batch = next(task.batches())
    models = {arm: ARMS[arm].prepare(bench.model(), bench, 0).train() for arm in arms}
    optimizers = {
        arm: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-6, fused=True)
        for arm, m in models.items()
    }
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        for arm, model in models.items():
            began = time.perf_counter()
            model(**batch, use_cache=False).loss.backward()
            optimizers[arm].step()
            optimizers[arm].zero_grad()
            if number:  # the first round warms up
                seconds[arm].append(time.perf_counter() - began)
    shape = list(batch["input_ids"].shape)
    return [
        {"suite": "quickstart-step", "arm": arm, "seconds": statistics.median(s), "all": s, "batch": shape}
        | {"machine": machine(), "versions": versions()}
        for arm, s in seconds.items()
    ]


def table(rows: list[Json]) -> str:
    """The best rate of each arm on the validation sums, and what it does on the test sums: mean (min to max).

    Step times are relative to full fine-tuning.
    """
    lines = [
        "| arm | parameters | learning rate | exact match of 100 | loss on general text | KL to the base | step time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    steps = {row["arm"]: row["seconds"] for row in rows if row["suite"] == "quickstart-step"}
    rows = [row for row in rows if row["suite"] == "quickstart"]
    for arm, about in ARMS.items():
        mine = [row for row in rows if row["arm"] == arm]
        if not mine:
            continue
        rates = {row["lr"] for row in mine}
        best = max(rates, key=lambda r: statistics.mean(row["valid"] for row in mine if row["lr"] == r))
        at = [row for row in mine if row["lr"] == best]
        cells = [about.label, f"{at[0]['trainable']:,}", f"{best:g}"]
        for key, form in (("score", "{:.0f}"), ("forgetting", "{:+.3f}"), ("kl", "{:.4f}")):
            values = [row[key] for row in at]
            spread = f" ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else ""
            cells.append(form.format(statistics.mean(values)) + spread)
        cells.append(f"{steps[arm] / steps['full']:.2f}" if {arm, "full"} <= set(steps) else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def every_run(rows: list[Json]) -> str:
    """All runs, so that a choice of learning rate can be checked."""
    lines = [
        "| arm | learning rate | seed | validation | test | loss on general text | KL to the base |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = {arm: i for i, arm in enumerate(ARMS)}
    runs = [row for row in rows if row["suite"] == "quickstart"]
    for row in sorted(runs, key=lambda r: (order[r["arm"]], r["lr"], r["seed"])):
        cells = [
            ARMS[row["arm"]].label,
            f"{row['lr']:g}",
            str(row["seed"]),
            f"{row['valid']:.0f}",
            f"{row['score']:.0f}",
        ]
        cells += [f"{row['forgetting']:+.4f}", f"{row['kl']:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of rows, one per run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--time", action="store_true", help="measure step times and add them to the rows")
    parser.add_argument("overrides", nargs="*", help="key=value settings of the recipe sums")
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.time:
        rows = [row for row in rows if row["suite"] != "quickstart-step"]
        rows += time_steps(Bench(Recipe.load("sums", [*PINNED, *asked.overrides])), asked.arms)
        write_text(asked.out, "".join(json.dumps(row) + "\n" for row in rows))
    elif not asked.table:
        done = {(row["arm"], row["lr"], row["seed"]) for row in rows if row["suite"] == "quickstart"}
        bench = Bench(Recipe.load("sums", [*PINNED, *asked.overrides]))
        for seed in asked.seeds:
            for factor in SPAN:
                for arm in asked.arms:
                    rate = float(f"{ARMS[arm].lowest * factor:.3g}")
                    if (arm, rate, seed) in done:
                        continue
                    row = run_one(bench, arm, rate, seed, asked.out.parent / ".trainer")
                    rows.append(row)
                    with open(asked.out, "a") as file:
                        file.write(json.dumps(row) + "\n")
                    told = f"{arm:<12} lr {rate:<8g} seed {seed}: {row['score']:.0f}, {row['forgetting']:+.4f} nats"
                    print(f"{told}, KL {row['kl']:.4f}, {row['seconds']:.0f} s", flush=True)
    print(table(rows), every_run(rows), sep="\n\n")


if __name__ == "__main__":
    main()
