"""The report page: one HTML file that needs nothing but a browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plotly.offline import get_plotlyjs

from ..errors import GuidedError
from ..selection.chosen import Chosen, load_chosen
from ..selection.scoremap import ScoreMap
from ..system.files import Json, write_text
from .compared_page import comparison_of, shown_comparison, template
from .comparison import Comparison
from .facts import Table, amount, counted, gigabytes, results, share, words
from .figures import Figure, figures
from .record import RunRecord, Sample, read_run
from .verdict import verdict

TOP = 20
SAMPLES = 20
LONGEST = 500
"""Characters of one answer that are shown."""


@dataclass(frozen=True)
class Ranking:
    """The best components of one kind: rows of (name, score, chosen?)."""

    kind: str
    rows: list[tuple[str, str, bool]]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Reads ``run.json``, ``scores.safetensors`` with its ``.json``, ``selection.json`` and, if it is there,
    ``control/selection.json`` and ``compare/compare.json``.

    Raises:
        GuidedError: if one of them is missing, damaged, or of another model.
    """
    folder = Path(folder)
    run = read_run(folder)
    # A script may train a plan that it brought along.
    scores = ScoreMap.load(folder / "scores.safetensors") if run.mapped else None
    selection = load_chosen(folder / "selection.json")
    control_path = folder / "control" / "selection.json"
    control = load_chosen(control_path) if control_path.is_file() else None
    for name, other in (("selection.json", selection), ("control/selection.json", control)):
        if other is not None and scores is not None and other.anatomy != scores.anatomy:
            raise GuidedError(f"{folder / name}: of another model than scores.safetensors")
    target = folder / "report.html"
    write_text(target, render(run, scores, selection, control, comparison_of(folder, run)))
    return target


def render(
    run: RunRecord,
    scores: ScoreMap | None,
    selection: Chosen,
    control: Chosen | None = None,
    compared: Comparison | None = None,
) -> str:
    """Return the page of a run; ``scores``: None if nothing was scored in it."""
    made = figures(run, scores, selection, control)
    judged = verdict(run)
    shown = None if compared is None else shown_comparison(compared)
    return template("report.html.j2").render(
        title=f"{run.name} - guided fine-tuning report",
        run=run,
        compared=shown,
        facts=_typeset(judged.facts[:1].upper() + judged.facts[1:]),
        judgement=_typeset(judged.judgement[:1].upper() + judged.judgement[1:]),
        outcome=judged.outcome,
        table=results(run),
        training=[f for f in made if f.id == "fig-loss"],
        maps=[f for f in made if f.id != "fig-loss"],
        figures=[_drawing(f) for f in made],
        rankings=_rankings(scores, selection) if scores else [],
        setup=_setup(run, selection),
        seconds=_seconds(run),
        answers=_answers(run),
        plotly=get_plotlyjs(),
    )


def _drawing(figure: Figure) -> Json:
    return {"id": figure.id, "data": figure.data, "layout": figure.layout}


def _typeset(text: str) -> str:
    return text.replace("->", "→").replace("+-", "±")


def _rankings(scores: ScoreMap, selection: Chosen) -> list[Ranking]:
    chosen = set(selection.components)
    kinds = [kind for kind in ("head", "neuron", "layer") if kind in scores.kinds]
    if len(kinds) > 1 and not selection.counts()["layer"]:
        # All layers are in the bar chart above already.
        kinds = [kind for kind in kinds if kind != "layer"]
    return [
        Ranking(kind, [(str(c), amount(score), c in chosen) for c, score in scores.top(kind, TOP)]) for kind in kinds
    ]


def _setup(run: RunRecord, selection: Chosen) -> list[tuple[str, str]]:
    """Everything that it takes to repeat the run or to doubt it."""
    task, frozen, reload = run.task, run.frozen, run.reload
    selected = ", ".join(counted(n, kind) for kind, n in run.selected.items() if n)
    rows: list[tuple[str, object]] = [
        ("model", run.model),
        ("dtype", run.dtype),
        ("quantization", run.quantization),
        ("task", task.name),
        ("examples", f"{amount(task.train)} to train, {amount(task.test)} to test"),
        ("data hash", task.hash),
        ("method", run.method),
        # Of a plan that was brought along nothing is known.
        ("retain", run.retain or ("none (one-sided map)" if run.mapped else None)),
        ("budget", run.budget),
        ("strategy", selection.how.strategy),
        ("selected", selected or None),
        ("trained", f"{run.trainable:,} of {run.total:,} parameters ({share(run.trainable, run.total)})"),
        ("mode", run.mode),
        ("trainer", run.trainer),
        ("general text", run.retention and run.retention.text),
        ("frozen tensors", frozen and f"{frozen.identical} of {frozen.total} bit-identical"),
        ("reload", reload and f"largest difference {amount(reload.max_difference)}"),
        ("seed", run.seed),
        ("peak memory", None if run.peak_bytes is None else gigabytes(run.peak_bytes)),
        ("machine", run.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or None),
    ]
    rows += [(f"sample: {words(key)}", value) for key, value in task.sample.items()]
    return [(label, str(value)) for label, value in rows if value is not None]


def _seconds(run: RunRecord) -> list[tuple[str, str, float]]:
    """Rows of (stage, seconds, share of the whole in percent)."""
    whole = sum(run.seconds.values())
    spent = [(words(name), value) for name, value in run.seconds.items()]
    rows = [(name, f"{value:,.1f}", 100 * value / whole if whole else 0.0) for name, value in spent]
    return [*rows, ("total", f"{whole:,.1f}", 0.0)]


def _answers(run: RunRecord) -> Table:
    """Sample answers beside each other; a column that no sample has is left out."""
    samples = [sample.model_dump() for sample in run.samples[:SAMPLES]]
    keys = [key for key in Sample.model_fields if any(sample[key] is not None for sample in samples)]
    rows = [[_short(sample[key] or "") for key in keys] for sample in samples]
    return Table(["random control" if key == "control" else key for key in keys], [("", row) for row in rows])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
