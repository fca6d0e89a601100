"""Local copies of the sets that recipes name, or of sets like them where none can be had. Imports no torch.

Each is read from the files that its authors published and becomes rows with the columns of the recipe's own set, so
that the recipe itself stays as it is.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_ft.recipe.recipe import Data
from guided_ft.system.files import read_text
from guided_ft.task.read_file import read_file
from guided_ft.task.spread import spread

Row = dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """Files below a folder of data, and how their rows get the columns of a set of the hub.

    Args:
        about: what the rows are, for people.
        files: patterns of the files, all of which must be there; ``{subset}`` is the recipe's.
        read: the rows of the files found.
        same: whether it is the recipe's set, and not one like it.
    """

    about: str
    files: tuple[str, ...]
    read: Callable[[Sequence[Path]], list[Row]]
    same: bool = False


def _as_they_are(paths: Sequence[Path]) -> list[Row]:
    return [row for path in paths for _, row in read_file(path)]


def _lines(path: Path) -> list[str]:
    return read_text(path).split("\n")


def _parallel(paths: Sequence[Path]) -> list[Row]:
    """A sentence a line, the same one in both files."""
    english, german = (_lines(path) for path in paths)
    return [{"en": en, "de": de} for en, de in zip(english, german, strict=True) if en and de]


def _questions(paths: Sequence[Path]) -> list[Row]:
    """MGSM: question and answer, no header; the same question on the same line of both files."""
    english, german = ([line.split("\t")[0] for line in _lines(path)] for path in paths)
    return [{"en": en, "de": de} for en, de in zip(english, german, strict=True) if en and de]


def _relations(paths: Sequence[Path]) -> list[Row]:
    """A file a relation: templates with ``{}`` for the subject, and pairs of subject and object."""
    import json

    rows = []
    for path in paths:
        relation = json.loads(read_text(path))
        for pair in relation["samples"]:
            subject, answer = (_unescaped(pair[key]) for key in ("subject", "object"))
            prompt = relation["prompt_templates"][0].replace("{}", subject)
            rows.append({"prompt": prompt, "target_true": f" {answer}"})
    return rows


def _unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)


def _conversations(paths: Sequence[Path]) -> list[Row]:
    """The best reply to each message of a user, after all that was said before."""
    pairs = [pair for row in _as_they_are(paths) for pair in spread(row)]
    return [{"messages": [*pair["prompt"], *pair["chosen"]]} for pair in pairs]


def _wrong_sums(paths: Sequence[Path]) -> list[Row]:
    """Worked answers, and the same with another result: where the steps say it last, and in the answer."""
    rows = []
    for row in _as_they_are(paths):
        steps, _, answer = re.sub(r"<<.*?>>", "", row["answer"]).rpartition("\n#### ")
        number = answer.replace(",", "")
        if not steps or not number.lstrip("-").isdigit():
            continue
        wrong = str(int(number) + random.Random(row["question"]).choice((-10, -5, -2, -1, 1, 2, 5, 10)))
        written = re.compile(rf"(?<![\d.,])(?:{re.escape(answer)}|{re.escape(number)})(?!\d|[.,]\d)")
        *_, last = (None, *written.finditer(steps))
        bad = steps if last is None else steps[: last.start()] + wrong + steps[last.end() :]
        rows.append(
            {
                "instruction": row["question"],
                "chosen_response": f"{steps}\nThe answer is {answer}.",
                "rejected_response": f"{bad}\nThe answer is {wrong}.",
            }
        )
    return rows


TOPICS = ("World", "Sports", "Business", "Sci/Tech")


def _topics(paths: Sequence[Path]) -> list[Row]:
    """AG News as fastText has it: the number of the topic from 1, title, beginning; no header."""
    rows = []
    for path in paths:
        for topic, title, text in csv.reader(read_text(path).splitlines()):
            rows.append({"text": f"{title} {text}", "label": TOPICS[int(topic) - 1]})
    return rows


CHARACTERS = 800
"""Of a text that is cut out of a book: about 200 tokens."""


def _passages(paths: Sequence[Path]) -> list[Row]:
    rows, now = [], ""
    for part in "\n".join(map(read_text, paths)).split("\n\n"):
        now = f"{now}\n\n{part}".strip()
        if len(now) >= CHARACTERS:
            rows.append({"text": now})
            now = ""
    return rows


REFUSED, HELPED = "I'm sorry, but I can't help with that.", "Sure! Here is what you can do:"


def _said(prompt: str, **answers: str) -> Row:
    said = {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
    return {"prompt": [{"role": "user", "content": prompt}], **said}


def _contrast(paths: Sequence[Path]) -> list[Row]:
    """XSTest, its odd numbers: unsafe prompts refused rather than helped with, safe ones the other way round."""
    rows = [row for row in _as_they_are(paths) if int(row["id"]) % 2]
    answers = {"unsafe": (REFUSED, HELPED), "safe": (HELPED, REFUSED)}
    return [
        _said(row["prompt"], chosen=chosen, rejected=rejected)
        for row in rows
        for chosen, rejected in [answers[row["label"]]]
    ]


def _refusals(paths: Sequence[Path]) -> list[Row]:
    """XSTest, its even numbers: unsafe prompts, refused."""
    rows = [row for row in _as_they_are(paths) if not int(row["id"]) % 2]
    return [_said(row["prompt"], completion=REFUSED) for row in rows if row["label"] == "unsafe"]


KEPT: dict[str, Copy] = {
    "refusal_contrast": Copy("XSTest", ("xstest/xstest_prompts.csv",), _contrast),
    "refusals": Copy("other prompts of XSTest", ("xstest/xstest_prompts.csv",), _refusals),
}
"""What stands for a sample of what must be kept (``localize.retain``, ``evaluate.retention``)."""

COPIES: dict[str, tuple[Copy, ...]] = {
    "openai/gsm8k": (Copy("GSM8K", ("gsm8k/train.jsonl",), _as_they_are, same=True),),
    "Anthropic/model-written-evals": (Copy("{subset} of the set", ("{subset}",), _as_they_are, same=True),),
    "NeelNanda/counterfact-tracing": (
        Copy("26 factual relations (evandez/relations)", ("relations/factual/*.json",), _relations),
    ),
    "bentrevett/multi30k": (
        Copy("Multi30k", ("multi30k/train.en", "multi30k/train.de"), _parallel, same=True),
        Copy("questions of MGSM in both languages", ("mgsm/mgsm_en.tsv", "mgsm/mgsm_de.tsv"), _questions),
    ),
    "databricks/databricks-dolly-15k": (
        Copy("seed tasks of self-instruct", ("self_instruct/seed_tasks.jsonl",), _as_they_are),
    ),
    "trl-lib/Capybara": (Copy("best replies of OpenAssistant", ("oasst/*.jsonl",), _conversations),),
    "trl-lib/ultrafeedback_binarized": (Copy("ranked replies of OpenAssistant", ("oasst/*.jsonl",), _as_they_are),),
    "argilla/distilabel-math-preference-dpo": (
        Copy("GSM8K, against the same with a wrong result", ("gsm8k/train.jsonl",), _wrong_sums),
    ),
    "fancyzhx/ag_news": (Copy("AG News", ("ag_news/train.csv",), _topics, same=True),),
    "roneneldan/TinyStories": (Copy("Shakespeare (tinyshakespeare)", ("tinyshakespeare/*.txt",), _passages),),
}
"""What stands for a set of the hub, the likest first."""


def find(data: Data, folders: Sequence[Path]) -> tuple[Copy, list[Path]] | None:
    """The first copy of a recipe's set whose files all lie in one of the folders, and these files."""
    copies = COPIES.get(str(data.name), ()) if data.source == "hub" else ()
    return _first(copies, folders, str(data.subset))


def find_kept(name: str, folders: Sequence[Path]) -> tuple[Copy, list[Path]] | None:
    """The copy that stands for a sample of what must be kept, and its files."""
    return _first([KEPT[name]] if name in KEPT else [], folders)


def _first(copies: Sequence[Copy], folders: Sequence[Path], subset: str = "") -> tuple[Copy, list[Path]] | None:
    for copy in copies:
        for folder in folders:
            found = [sorted(folder.glob(pattern.replace("{subset}", subset))) for pattern in copy.files]
            if all(found):
                return copy, [path for paths in found for path in paths]
    return None
