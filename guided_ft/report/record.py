"""The typed run record: all that ``run.json`` may hold, read with care. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import GuidedError
from ..system.files import read_json


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return value


def _curve(points: object) -> object:
    if not isinstance(points, list):
        raise ValueError("a list")
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or any(type(x) not in (int, float) for x in point):
            raise ValueError("a list of [step, loss]")
    return points


Number = Annotated[int | float, BeforeValidator(_number)]
"""A whole number stays whole: it is shown as a count."""

Curve = Annotated[list[list[int | float]], BeforeValidator(_curve)]
"""``[[step, training loss in nats, or mean reward], ...]``."""

Scores = dict[str, Number]
"""What was measured on the test examples, by name; ``examples`` counts them. The verdict takes the first one."""


class Strict(BaseModel):
    """What all of a record shares: nothing is converted, nothing is unknown, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AskedTask(Strict):
    """The task: how many examples were trained and tested on, the hash of those that were scored, what prompts are, one
    sample row."""

    name: str
    train: int
    test: int
    hash: str
    form: Literal["text", "messages"] | None = None
    sample: dict[str, str] = {}


class Kept(Strict):
    """General text: mean loss per token, and mean KL(base || model) per token, both in nats."""

    loss: float
    kl: float


class Retention(Strict):
    """General text before and after; ``text``: ``self`` or the file it is from."""

    text: str
    before: Kept
    after: Kept


class Frozen(Strict):
    """Frozen tensors that are bit-identical to the base's, and how many there are."""

    identical: int
    total: int


class Prefix(Strict):
    """What the prefix cache did; ``note`` says why there was none."""

    cache: bool
    note: str | None = None
    first: int | None = None
    hits: int = 0
    misses: int = 0
    difference: float | None = None


class Reload(Strict):
    """The largest difference of a logit of the saved model, loaded again, from the trained one."""

    max_difference: float


class Control(Strict):
    """Another choice of components, trained and measured in the same way."""

    trainable: int
    after: Scores
    retention: Kept | None = None
    loss: Curve = []
    reward: Curve = []
    frozen: Frozen | None = None
    seconds: Number | None = None


class Check(Strict):
    """Something that the run proved or failed to prove."""

    name: str
    ok: bool
    detail: str = ""


class Sample(Strict):
    """A test prompt, the right answer, and those of the base, the trained model and the control's."""

    prompt: str
    expected: str
    before: str | None = None
    after: str | None = None
    control: str | None = None


class RunRecord(Strict):
    """What a run did and found. Optional is what an earlier version did not write, or what a recipe can leave out."""

    kind: Literal["run"]
    version: Literal[1]
    name: str
    command: str
    model: str
    dtype: str | None = None
    quantization: str | None = None
    task: AskedTask
    method: str
    mapped: bool = True
    retain: str | None = None
    mode: str
    trainer: str | None = None
    budget: str | None = None
    trainable: int
    total: int = Field(ge=1)
    selected: dict[str, int] = {}
    before: Scores
    after: Scores
    retention: Retention | None = None
    loss: Curve = []
    reward: Curve = []
    frozen: Frozen | None = None
    prefix: Prefix | None = None
    reload: Reload | None = None
    control: dict[str, Control] = {}
    checks: list[Check] = []
    use: list[str] = []
    seconds: dict[str, Number]
    peak_bytes: int | None = None
    versions: dict[str, str] = {}
    machine: str | None = None
    seed: int | None = None
    samples: list[Sample] = []

    @property
    def random(self) -> Control | None:
        """The random choice of the same budget, if one was trained."""
        return self.control.get("random")

    def to_dict(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return self.model_dump(exclude_unset=True)


def read_run(folder: Path) -> RunRecord:
    """Read and check ``run.json`` of a run folder."""
    path = folder / "run.json"
    if not path.is_file():
        raise GuidedError(f"{folder}: no run.json here (give the folder of a run)")
    return checked(read_json(path, "run"), str(path))


def checked(data: dict[str, Any], where: str = "run.json") -> RunRecord:
    """Read the content of a ``run.json``.

    Raises:
        GuidedError: a key is missing, as in a run that was stopped, is not known, or holds something else.
    """
    try:
        return RunRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise GuidedError(f"{where}: {_told(first['type'], _key(first['loc']), first.get('ctx', {}))}") from None


_WANTED = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}


def _told(kind: str, key: str, context: dict[str, Any]) -> str:
    if kind == "missing":
        return f"{key!r} is missing (the run has not finished; run it again to continue)"
    if kind == "extra_forbidden":
        return f"{key!r} is not a key of a run (update guided_ft, if a newer one wrote it)"
    if kind == "greater_than_equal":
        return f"{key!r} is below {context['ge']} (a model has parameters)"
    wanted = context["error"] if kind == "value_error" else _WANTED.get(kind, "what a run holds")
    return f"{key!r} is not {wanted} (the file was changed; run it again: the recipe is beside it)"


def _key(place: tuple[int | str, ...]) -> str:
    """``('checks', 0, 'ok')`` as ``checks[0].ok``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
