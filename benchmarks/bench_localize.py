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

Verification: what attribution with ``verify=60`` (the top 48 heads and 12 drawn from the rest) costs of the full exact
sweep of all heads, one after the other, on each of the three tasks: in CPU seconds, and counted as tokens that a
layer's MLP took in, which no neighbour on the machine can change.

Each figure is one row of the file; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from localization.agreement import agreement
from localization.cost import cost
from localization.memory import memory
from localization.rows import Rows
from localization.tables import table
from localization.verification import verification

from guided_ft.models import load_model, load_tokenizer


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
