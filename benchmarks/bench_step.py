"""What one training step costs: full fine-tuning, LoRA, slices, and slices on a cached prefix.

    python benchmarks/bench_step.py --out benchmarks/results/step.jsonl       # 8 x 32 and 8 x 128
    python benchmarks/bench_step.py --out FILE --model NAME_OR_FOLDER --batch 4 --length 256 --budget 0.005
    python benchmarks/bench_step.py --out benchmarks/results/step.jsonl --sweep       # budget, length, batch, depth
    python benchmarks/bench_step.py --out benchmarks/results/step.jsonl --table       # only print what is there
    python benchmarks/bench_step.py --out benchmarks/results/step.jsonl --plots benchmarks/plots

All arms share one process, one base model and the same batches; a round times one step of each, and the table shows
medians over the rounds. Every arm gets logits only where labels are. Memory is measured in a process of its own per
arm: peak resident memory above the loaded model, and the bytes of gradients and optimizer state.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from guided_ft import Anatomy, Component, Plan, Selection
from guided_ft.anatomy import base_model
from guided_ft.engine.labelled import labelled_only
from guided_ft.engine.prefix import Prefix
from guided_ft.engine.store import PrefixStore
from guided_ft.models import load_model
from guided_ft.plan.modes.typical import spread_directions
from guided_ft.system.files import Json, write_text
from guided_ft.system.machine import machine, versions

MLP = ["gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Setting:
    """What a row was measured on.

    Args:
        labelled: share of the tokens with a label.
        budget: share of the parameters that trains.
        bf16: bfloat16 autocast over float32 weights, TRL's default.
    """

    model: str = "smollm2-135m-instruct"
    batch: int = 8
    length: int = 32
    labelled: float = 0.3
    budget: float = 0.0177
    seed: int = 0
    bf16: bool = False


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        prepare: gets a model of its own (weights shared unless ``owns``) and returns the one to train.
        first: where a cached prefix would end; None: no cache.
        filling: time the steps that fill the cache, not those that use it.
        owns: trains the base weights themselves.
    """

    label: str
    prepare: Callable[[nn.Module, Setting], nn.Module]
    first: int | None = None
    filling: bool = False
    owns: bool = False


# -- arms -----------------------------------------------------------------------------------------------------------
def neurons(anatomy: Anatomy, setting: Setting, first: int = 0) -> Selection:
    """As many random neurons of the layers from ``first`` on as the budget buys, the same number in each layer."""
    each = sum(anatomy.slice_cost(part) for part in anatomy.slices(Component("neuron", 0, 0)))
    layers = range(first, anatomy.num_layers)
    count = min(anatomy.num_neurons, round(setting.budget * anatomy.num_parameters / each / len(layers)))
    draw = random.Random(setting.seed)
    chosen = [Component("neuron", i, n) for i in layers for n in draw.sample(range(anatomy.num_neurons), max(1, count))]
    return Selection(anatomy, tuple(chosen))


def _slices(share: float = 0.0) -> Callable[[nn.Module, Setting], nn.Module]:
    """Neurons of the layers above this share of the depth."""

    def prepare(model: nn.Module, setting: Setting) -> nn.Module:
        anatomy = Anatomy.of(model)
        return Plan(neurons(anatomy, setting, round(share * anatomy.num_layers))).attach(model)

    return prepare


def _lora(
    rank: int | None, modules: list[str] | None = None, share: float = 0.0
) -> Callable[[nn.Module, Setting], nn.Module]:
    """LoRA of this rank (None: as many parameters as the budget) on these modules (None: all linear layers)."""

    def prepare(model: nn.Module, setting: Setting) -> nn.Module:
        anatomy = Anatomy.of(model)
        layers = anatomy.num_layers
        from_layer = round(share * layers)

        def config(r: int) -> LoraConfig:
            return LoraConfig(
                r=r,
                lora_alpha=2 * r,
                target_modules=modules or sorted(name.rpartition(".")[2] for name in anatomy.shapes),
                layers_to_transform=list(range(from_layer, layers)) if from_layer else None,
                task_type="CAUSAL_LM",
            )

        if rank is not None:
            return get_peft_model(model, config(rank))
        shared = copy.deepcopy(model, {id(p): p for p in model.parameters()})
        one = sum(p.numel() for p in get_peft_model(shared, config(1)).parameters() if p.requires_grad)
        total = anatomy.num_parameters
        return get_peft_model(model, config(max(1, round(setting.budget * total / one))))

    return prepare


def _directions(model: nn.Module, setting: Setting) -> nn.Module:
    """As many directions as the budget buys, in all linear layers; which they are does not change a step."""
    anatomy = Anatomy.of(model)
    budget = round(setting.budget * anatomy.num_parameters)
    return Plan(spread_directions(anatomy, budget, range(anatomy.num_layers)), "subspace").attach(model)


def _full(model: nn.Module, setting: Setting) -> nn.Module:
    return model.requires_grad_(True)


def _frozen(model: nn.Module, setting: Setting) -> nn.Module:
    """The frozen bound: nothing is trained, but gradients flow through every layer."""
    model.requires_grad_(False)
    embeddings = base_model(model).get_input_embeddings()
    offset = nn.Parameter(torch.zeros_like(next(embeddings.parameters())[0]))
    embeddings.register_forward_hook(lambda module, args, out: out + offset)
    model.register_parameter("offset", offset)
    return model


THIRD = 2 / 3
ARMS = {
    "full": Arm("full fine-tuning", _full, owns=True),
    "lora": Arm("LoRA r8, all linear layers", _lora(8)),
    "lora-same": Arm("LoRA, all linear layers, same parameters", _lora(None)),
    "lora-mlp": Arm("LoRA, MLPs, same parameters", _lora(None, MLP)),
    "lora-top": Arm("LoRA, top third, same parameters", _lora(None, share=THIRD)),
    "frozen": Arm("nothing trained, gradients flow", _frozen),
    "slice": Arm("slices, all layers", _slices()),
    "directions": Arm("directions, all layers", _directions),
    "slice-top": Arm("slices, top third", _slices(THIRD)),
    "slice-top-filling": Arm("slices, top third, filling the cache", _slices(THIRD), first=20, filling=True),
    "slice-top-cache": Arm("slices, top third, cached", _slices(THIRD), first=20),
    "slice-13": Arm("slices, from layer 13 of 30", _slices(13 / 30)),
    "slice-13-cache": Arm("slices, from layer 13 of 30, cached", _slices(13 / 30), first=13),
}


# -- steps ----------------------------------------------------------------------------------------------------------
class Trained:
    """A model, its optimizer, and a step."""

    def __init__(self, arm: Arm, base: nn.Module, setting: Setting) -> None:
        memo = {} if arm.owns else {id(p): p for p in base.parameters()}
        self.arm = arm
        self.model = arm.prepare(copy.deepcopy(base, memo), setting).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)
        self.bf16 = setting.bf16
        self.store: PrefixStore | None = None

    @contextlib.contextmanager
    def open(self, folder: Path | None = None) -> Iterator[None]:
        anatomy = Anatomy.of(self.model)
        with contextlib.ExitStack() as stack:
            if self.arm.first is not None:
                self.store = PrefixStore(folder, anatomy.hidden_size, torch.float32, 1 << 30)
                stack.callback(self.store.close)
                first = min(i for i in range(anatomy.num_layers) if self._trains(anatomy.layer_module(i)))
                stack.enter_context(Prefix(self.model, anatomy, first, self.store).open())
            stack.enter_context(labelled_only(self.model, anatomy))
            yield

    def _trains(self, layer: str) -> bool:
        return any(p.requires_grad and f"{layer}." in name for name, p in self.model.named_parameters())

    def warm(self, batches: list[dict[str, torch.Tensor]]) -> None:
        """Fill the cache, as a first epoch does."""
        if self.store is not None and not self.arm.filling:
            for batch in batches:
                with torch.no_grad():
                    self.loss(batch)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.model(**batch, use_cache=False).loss

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        began = time.perf_counter()
        self.loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began


def make_batches(setting: Setting, count: int, vocabulary: int) -> list[dict[str, torch.Tensor]]:
    """Random tokens of one length; the last ones are labelled."""
    generator = torch.Generator().manual_seed(setting.seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(10, vocabulary, (setting.batch, setting.length), generator=generator)
        labels = ids.clone()
        labels[:, : round(setting.length * (1 - setting.labelled))] = -100
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return batches


def measure_time(setting: Setting, arms: list[str], rounds: int, folder: Path) -> list[Json]:
    """Time the arms, interleaved."""
    base = load_model(setting.model)
    batches = make_batches(setting, rounds + 1, base.config.get_text_config().vocab_size)
    trained = {name: Trained(ARMS[name], base, setting) for name in arms}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with contextlib.ExitStack() as stack:
        for name, arm in trained.items():
            stack.enter_context(arm.open(folder / name))
            arm.warm(batches)
        for batch in batches:
            for name, arm in trained.items():
                seconds[name].append(arm.step(batch))
    rows = []
    for name, arm in trained.items():
        # The first round warms up.
        times = seconds[name][1:]
        row = {"kind": "time", "arm": name, "trained": sum(p.numel() for p in arm.trained), "seconds": times}
        rows.append(row | {"median": statistics.median(times)})
    return rows


# -- memory ---------------------------------------------------------------------------------------------------------
def _resident(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore


def measure_memory(setting: Setting, name: str, folder: Path) -> Json:
    """Peak resident memory above the loaded model, of this process."""
    base = load_model(setting.model)
    batches = make_batches(setting, 3, base.config.get_text_config().vocab_size)
    # Weights are mapped from the file: only what is read becomes resident.
    sum(float(p.sum()) for p in base.parameters())
    loaded = _resident("VmRSS")
    # Forget the peak of loading.
    Path("/proc/self/clear_refs").write_text("5")
    base_owner = ARMS[name].owns
    arm = Trained(ARMS[name], base, setting) if not base_owner else _own(ARMS[name], base, setting)
    gradients = 0

    def add(parameter: torch.Tensor) -> None:
        nonlocal gradients
        assert parameter.grad is not None
        gradients += parameter.grad.numel() * parameter.grad.element_size()

    handles = [p.register_post_accumulate_grad_hook(add) for p in arm.trained]
    with arm.open(folder / name):
        arm.warm(batches)
        for batch in batches:
            gradients = 0
            arm.step(batch)
    for handle in handles:
        handle.remove()
    state = sum(
        v.numel() * v.element_size() for s in arm.optimizer.state.values() for v in s.values() if torch.is_tensor(v)
    )
    return {
        "kind": "memory",
        "arm": name,
        "trained": sum(p.numel() for p in arm.trained),
        "peak_over_model": _resident("VmHWM") - loaded,
        "gradient_bytes": gradients,
        "optimizer_bytes": state,
    }


def _own(arm: Arm, base: nn.Module, setting: Setting) -> Trained:
    """Train the loaded model itself: no copy is made that full fine-tuning does not need."""
    shared = Arm(arm.label, arm.prepare, arm.first, arm.filling, owns=False)
    return Trained(shared, base, setting)


# -- rows -----------------------------------------------------------------------------------------------------------
def read_rows(path: Path) -> list[Json]:
    lines = path.read_text().splitlines() if path.exists() else []
    # Rows of before there was a choice lack it.
    return [{"bf16": False} | json.loads(line) for line in lines]


def add_rows(path: Path, setting: Setting, rows: list[dict[str, object]], suite: str) -> None:
    """Replace the rows of the same suite, setting, kind and arm."""
    new = [{"suite": suite, **asdict(setting), **row, "machine": machine(), "versions": versions()} for row in rows]

    def key(row: dict[str, object]) -> tuple:
        return (row["suite"], *(row[name] for name in asdict(setting)), row["kind"], row["arm"])

    kept = [row for row in read_rows(path) if key(row) not in {key(r) for r in new}]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept + new))


def run(path: Path, setting: Setting, arms: list[str], rounds: int, suite: str, kinds: Sequence[str]) -> None:
    """Measure what is asked for, ``time`` and ``memory``, and write the rows as they come."""
    print(f"{suite}: {setting.batch} x {setting.length}, budget {setting.budget:.2%}", flush=True)
    if "time" in kinds:
        with tempfile.TemporaryDirectory() as folder:
            add_rows(path, setting, measure_time(setting, arms, rounds, Path(folder)), suite)
    for name in arms if "memory" in kinds else ():
        command = [sys.executable, __file__, "--out", str(path), "--memory-of", name]
        command += [f"--{k}={v}" for k, v in asdict(setting).items() if k in ("model", "batch", "length", "budget")]
        command += ["--bf16"] * setting.bf16
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        add_rows(path, setting, [json.loads(done.stdout.splitlines()[-1])], suite)


SWEEP: dict[str, list[dict[str, Any]]] = {
    "budget": [{"budget": b} for b in (0.001, 0.01, 0.1, 0.25)],
    "length": [{"batch": 4, "length": n} for n in (16, 64, 256)],
    "batch": [{"batch": n} for n in (1, 4, 16)],
}


def sweep(path: Path, model: str, rounds: int) -> None:
    """How the cost of a step grows with budget, length, batch and depth of the selection."""
    for suite, points in SWEEP.items():
        for point in points:
            setting = Setting(model=model, **point)
            run(path, setting, ["full", "lora", "slice", "slice-top", "slice-top-cache"], rounds, suite, ["time"])
    layers = Anatomy.of(load_model(model)).num_layers
    depths = sorted({round(share * layers) for share in (0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6)})
    names = []
    for first in depths:
        for cached in (False, True) if first else (False,):
            name = f"from-{first}{'-cache' * cached}"
            ARMS[name] = Arm(f"slices from layer {first}", _slices(first / layers), first if cached else None)
            names.append(name)
    run(path, Setting(model=model, budget=0.005), ["full", *names], rounds, "depth", ["time"])


# -- showing --------------------------------------------------------------------------------------------------------
def table(rows: list[Json]) -> str:
    """The main table: speed relative to full fine-tuning, and memory, per size."""
    rows = [row for row in rows if row["suite"] == "step"]
    lines = []
    for size in sorted({(r["model"], r["batch"], r["length"], r["budget"], r["bf16"]) for r in rows}):
        mine = [r for r in rows if (r["model"], r["batch"], r["length"], r["budget"], r["bf16"]) == size]
        times = {r["arm"]: r for r in mine if r["kind"] == "time"}
        memory = {r["arm"]: r for r in mine if r["kind"] == "memory"}
        full, rounds = times["full"]["median"], len(next(iter(times.values()))["seconds"])
        lines += [
            f"{size[0]}, {size[1]} x {size[2]} tokens{', bfloat16 autocast' * size[4]}, {rounds} rounds:",
            "",
            "| arm | trained | step | speed-up | matmul bound | gradients + optimizer | peak over the model |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, row in times.items():
            m = memory.get(name)
            state = f"{(m['gradient_bytes'] + m['optimizer_bytes']) / 2**20:,.1f} MiB" if m else ""
            peak = f"{m['peak_over_model'] / 2**20:,.0f} MiB" if m else ""
            bound = bounds(row)
            lines.append(
                f"| {ARMS[name].label} | {row['trained']:,} | {row['median'] * 1000:,.0f} ms | "
                f"{full / row['median']:.2f} | {f'{bound:.2f}' if bound else ''} | {state} | {peak} |"
            )
        lines.append("")
    return "\n".join(lines)


def bounds(row: Json) -> float | None:
    """The speed-up that the number of matrix multiplications allows; None for LoRA and other models."""
    first = {"slice": 0, "frozen": 0, "slice-top": 20, "slice-13": 13}
    name = row["arm"].removesuffix("-cache").removesuffix("-filling")
    if name not in first or row["model"] != Setting.model:
        return None
    return 1 / cost(row, first[name], row["trained"], row["arm"].endswith("-cache"))


def plots(rows: list[dict[str, object]], folder: Path) -> None:
    """Step cost relative to full fine-tuning, one figure per axis; dashed: the matmul cost model."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    axes = {"budget": "trained share (%)", "length": "tokens per example", "batch": "examples per batch"}
    for suite, label in {**axes, "depth": "first trained layer"}.items():
        mine = [row for row in rows if row["suite"] == suite]
        figure, plot = pyplot.subplots(figsize=(6, 3.6))
        for name, points in _lines(mine, suite).items():
            (line,) = plot.plot(*zip(*[(x, y) for x, y, _ in points], strict=True), "o-", label=name)
            bound = [(x, b) for x, _, b in points if b is not None]
            if bound:
                plot.plot(*zip(*bound, strict=True), "--", color=line.get_color(), linewidth=1)
        plot.set_xlabel(label)
        plot.set_ylabel("step / full fine-tuning's step")
        plot.set_ylim(bottom=0)
        if suite != "depth":
            plot.set_xscale("log")
            ticks = sorted({x for points in _lines(mine, suite).values() for x, _, _ in points})
            plot.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
            plot.minorticks_off()
        plot.legend(fontsize=8)
        plot.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(folder / f"step_{suite}.svg", metadata={"Date": None})
        pyplot.close(figure)


def _lines(rows: list[Json], suite: str) -> dict[str, list[tuple[float, float, float | None]]]:
    """By label: (x, measured ratio, ratio of the cost model)."""
    found: dict[str, list[tuple[float, float, float | None]]] = {}
    for full in [row for row in rows if row["arm"] == "full"]:
        same = [r for r in rows if all(r[k] == full[k] for k in ("model", "batch", "length", "budget"))]
        for row in same:
            if row["arm"] == "full":
                continue
            cached = row["arm"].endswith("-cache")
            if suite == "depth":
                first = int(row["arm"].split("-")[1])
                label, x = "slices, cached" if cached else "slices", float(first)
            else:
                first = {"slice-top": 20, "slice-top-cache": 20}.get(row["arm"], 0)
                label, x = ARMS[row["arm"]].label, 100 * row["budget"] if suite == "budget" else float(row[suite])
            bound = cost(full, first, row["trained"], cached) if row["arm"] != "lora" else None
            found.setdefault(label, []).append((x, row["median"] / full["median"], bound))
    return {label: sorted(points) for label, points in found.items()}


def cost(setting: Json, first: int, trained: int, cached: bool) -> float:
    """Matrix multiplications of a step relative to full fine-tuning's (SmolLM2-135M): per weight and token two
    operations forward, two for the gradient of the input and two for that of the weight."""
    layers, layer, head = 30, 3_539_000, 28_311_552
    attention = 2 * setting["length"] * 576
    labelled = setting["labelled"]
    whole = layers * (3 * layer + 3 * attention) + 3 * labelled * head
    forward = (layers - first if cached else layers) * (layer + attention)
    backward = (layers - first) * (layer + 2 * attention)
    return (forward + backward + 2 * labelled * head + 2 * trained) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=Setting.model)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--budget", type=float, default=Setting.budget, help="share of the parameters, such as 0.02")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--measure", default="time,memory")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [(options.batch or 8, options.length)] if options.length else [(options.batch or 8, n) for n in (32, 128)]
    if options.memory_of:
        batch, length = sizes[0]
        setting = Setting(options.model, batch, length, budget=options.budget, bf16=options.bf16)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_memory(setting, options.memory_of, Path(folder))))
        return
    if options.sweep:
        sweep(options.out, options.model, options.rounds)
    elif not options.table and not options.plots:
        for batch, length in sizes:
            setting = Setting(options.model, batch, length, budget=options.budget, bf16=options.bf16)
            run(options.out, setting, options.arms.split(","), options.rounds, "step", options.measure.split(","))
    if options.plots:
        plots(read_rows(options.out), options.plots)
    print(table(read_rows(options.out)))


if __name__ == "__main__":
    main()
