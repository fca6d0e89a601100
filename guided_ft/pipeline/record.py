"""``run.json``: what a run did and found, in one place."""

from __future__ import annotations

import json
import shlex

from ..report.record import RunRecord, checked
from ..system.files import Json
from ..system.machine import machine, versions
from ..task.reader import answered, asked, shape_of
from . import standard
from .results import Results
from .stages import Run


def run_record(context: Run, results: Results, seconds: dict[str, float], peak: int) -> RunRecord:
    """Put the results of the stages together; the keys are fixed, reports and outside readers rely on them."""
    recipe, rows = context.recipe, context.rows
    before, after, control = results["before"], results["evaluate"], results["control"]
    chosen, trained = results["select"], results["train"]
    meta = results["localize"]["meta"]
    prompt, completion = _shown((rows[1] or rows[0])[0])
    text = recipe.evaluate.retention
    record: Json = {
        "kind": "run",
        "version": 1,
        "name": recipe.name,
        "command": shlex.join(["guided-ft", "run", str(recipe.output_dir / "recipe.yaml")]),
        "model": recipe.model,
        "dtype": recipe.dtype,
        "quantization": recipe.quantization,
        "task": {
            "name": meta["task"]["name"],
            "train": len(rows[0]),
            "test": len(rows[1]),
            "hash": meta["task"]["hash"],
            "form": shape_of(rows[0][0]),
            "sample": {"prompt": prompt, "completion": completion},
        },
        "method": meta["method"],
        "retain": meta["retain"] and meta["retain"]["name"],
        "mode": recipe.train.mode,
        "trainer": recipe.train.trainer,
        "budget": str(recipe.select.budget),
        "trainable": trained["trainable"],
        "total": chosen["total"],
        "selected": chosen["counts"],
        "before": before["scores"],
        "after": after["scores"],
        "retention": before["retention"] and {"text": text, "before": before["retention"], "after": after["retention"]},
        "loss": trained["loss"],
        "frozen": trained["frozen"],
        "prefix": trained["prefix"],
        "reload": after["reload"],
        "control": {},
        "checks": _checks(results),
        "use": _use(context),
        "seconds": seconds,
        "peak_bytes": peak,
        "versions": versions() | standard.versions(recipe),
        "machine": machine(),
        "seed": recipe.seed,
        "samples": [
            {"prompt": _shown(row)[0], "expected": expected.strip(), "before": was, "after": now}
            for row, expected, was, now in zip(
                rows[1], context.expected, before["answers"], after["answers"], strict=False
            )
        ],
    }
    if trained.get("reward"):
        record["reward"] = trained["reward"]
    if control:
        record["control"] = {
            "random": {
                "trainable": control["train"]["trainable"],
                "after": control["after"]["scores"],
                "retention": control["after"]["retention"],
                "loss": control["train"]["loss"],
                "frozen": control["train"]["frozen"],
                "seconds": round(control["train"]["seconds"], 2),
            }
        }
        if control["train"].get("reward"):
            record["control"]["random"]["reward"] = control["train"]["reward"]
        for sample, answer in zip(record["samples"], control["after"]["answers"], strict=True):
            sample["control"] = answer
    return checked(record)


def _use(context: Run) -> list[str]:
    """Three lines of Python that use what was trained, and a command that does."""
    recipe = context.recipe
    saved = json.dumps(str(recipe.output_dir / "adapter"))
    options = "".join(
        f', {name}="{value}"'
        for name, value, usual in (
            ("dtype", recipe.dtype, "float32"),
            ("quantization", recipe.quantization, "none"),
        )
        if value != usual
    )
    whole = f"model = guided_ft.load_model({saved}{options})"
    base = f"guided_ft.load_model({json.dumps(recipe.model)}{options})"
    folder = shlex.quote(str(recipe.output_dir))
    alone = context.way.trains_base
    return [
        "import guided_ft" if alone else "import guided_ft; from peft import PeftModel",
        whole if alone else f"model = PeftModel.from_pretrained({base}, {saved})",
        f"tokenizer = guided_ft.load_tokenizer({saved})",
        f"# or: guided-ft chat {folder}, or guided-ft export {folder}",
    ]


def _checks(results: Results) -> list[Json]:
    frozen, chosen = results["train"]["frozen"], results["select"]
    difference = results["evaluate"]["reload"]["max_difference"]
    trained = results["train"]["trainable"]
    return [
        {
            "name": "frozen tensors are bit-identical",
            "ok": frozen["identical"] == frozen["total"] > 0,
            "detail": f"{frozen['identical']} of {frozen['total']}",
        },
        {
            "name": "the saved adapter reloads to the same logits",
            "ok": difference == 0,
            "detail": f"largest difference {difference:g}",
        },
        {
            "name": "the trained parameters are the plan's",
            "ok": trained == chosen["trainable"],
            "detail": f"{trained:,} of {chosen['total']:,}",
        },
    ]


def _shown(row: Json) -> tuple[str, str]:
    """What a row asks and its right answer, for people; of text its beginning."""
    question = asked(row)
    if question is None:
        whole = row.get("text") or " ".join(str(m.get("content") or "") for m in row.get("messages", ()))
        return whole[:200], ""
    return str(question), answered(row)
