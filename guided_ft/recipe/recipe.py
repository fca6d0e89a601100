"""``Recipe``: a run written down as YAML, strictly read. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from ..errors import GuidedError
from ..scorers.settings import LocalizeOptions
from ..system.files import Json, write_text
from ..task.read_file import ENDINGS, read_file
from ..task.reader import Reader
from ..task.spread import spread
from . import overrides as _overrides
from .conflicts import conflicts
from .extends import read
from .fields import FreeText, Name, Place, Seed
from .finding import find
from .finding import shipped as shipped
from .mends import Problem, RecipeError, translate
from .older import renewed
from .says import leaves
from .sections import Data, Evaluate, Localize, Section, Select, Train
from .strict_yaml import dump, shown
from .trl_fields import argument_problems, hoisted


class Recipe(Section):
    """One run, from the model to the report.

    Example::

        recipe = Recipe.load("quickstart", ["budget=1%", "train.steps=50"])
        recipe.select.budget  # '1%'

    Raises:
        GuidedError: if anything is wrong, with one line per problem.
    """

    name: Name = Field(default="recipe", description="what to call the run (default: the file's name)")
    description: FreeText = Field(default="", description="one line for people")
    model: Place = Field(default="smollm2-135m-instruct", description="hub id or folder of the model")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the base model's weights")
    quantization: Literal["none", "nf4", "int8"] = Field(
        default="none", description="of the base model's weights, by bitsandbytes"
    )
    seed: Seed = Field(default=LocalizeOptions.seed, description="of everything that is drawn")
    output: Place | None = Field(default=None, description="run folder (default: runs/NAME)")
    control: Literal["random", "none"] = Field(
        default="random", description="also train a random choice of the same budget"
    )
    data: Data = Data()
    localize: Localize = Localize()
    select: Select = Select()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    def __init__(self, /, **data: object) -> None:
        data = renewed(hoisted(data, Train.model_fields))
        problems: list[Problem] = []
        try:
            super().__init__(**data)
        except ValidationError as error:
            problems = translate(error, Recipe)
        problems += argument_problems(data)
        # What is wrong alone is told once.
        alone = [path for path, _ in problems]
        problems += [p for p in conflicts(data, Recipe) if not any(f"{path}.".startswith(f"{p[0]}.") for path in alone)]
        if problems:
            raise RecipeError(problems)

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
        """Read a YAML file, or a shipped recipe by its name, and set ``key.path=value`` overrides in it.

        A file of examples is the quickstart on these: ``Recipe.load("tickets.jsonl")``.
        """
        text = os.fspath(path_or_name)
        if text.lower().endswith(ENDINGS):
            if not Path(text).is_file():
                raise GuidedError(f"{shown(text)}: no such file (give a recipe, or a file of examples)")
            # As they are: YAML knows no escapes in halves, which JSON has for an emoji.
            named = [f"data={json.dumps(text, ensure_ascii=False)}", *overrides]
            recipe = cls.load("quickstart", named)
            typed = {override.partition("=")[0].strip() for override in overrides}
            pairs = not typed & {"trainer", "train.trainer"} and _has_pairs(recipe.data)
            return cls.load("quickstart", [*named, "train.trainer=dpo"]) if pairs else recipe
        data, file_of = read(find(path_or_name))
        touched = _overrides.apply(overrides, data, cls)

        def source(key: str) -> str:
            near = (t for t in touched if f"{key}.".startswith(f"{t}.") or f"{t}.".startswith(f"{key}."))
            return _overrides.WHERE if any(near) else file_of(key)

        try:
            return cls(**data)
        except RecipeError as error:
            raise RecipeError(error.problems, source) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, object], where: str = "recipe") -> Recipe:
        """Check plain data; ``where`` is what messages begin with."""
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise GuidedError(f"{where}: not a mapping with text keys (give a dict such as Recipe.to_dict returns)")
        try:
            return cls(**data)
        except RecipeError as error:
            raise RecipeError(error.problems, where) from None

    def to_dict(self) -> Json:
        """Plain data with every default spelled out; ``from_dict`` reads it back."""
        return self.model_dump(mode="json")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as YAML with every default spelled out; ``load`` reads it back."""
        write_text(path, "# A recipe with every default spelled out.\n" + dump(self.to_dict()))

    @property
    def output_dir(self) -> Path:
        """The run folder."""
        return Path(self.output) if self.output else Path("runs") / self.name


def keys() -> Mapping[str, FieldInfo]:
    """Every key path of a recipe (``train.steps``) with its field: default, description, type."""
    return leaves(Recipe)


def _has_pairs(data: Data) -> bool:
    """Whether the first row of a file is a preference; what is wrong with it is told when all are read."""
    try:
        first = (each for _, row in read_file(str(data.path)) for each in spread(row))
        return "chosen" in Reader(data.format, data.columns, data.prompt)(next(first, {}))
    except GuidedError:
        return False
