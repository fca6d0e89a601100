"""Files of examples that are damaged: columns, types, encodings, sizes, repeats, and what only a tokenizer stumbles over."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import tiny
from families import make as make_model
from fuzz import Case

from guided_ft.cli import main

Rows = list[dict[str, Any]]

ASK, ANSWER = {"role": "user", "content": "1+3 ="}, {"role": "assistant", "content": " 4"}

FORMATS: dict[str, Callable[[int], dict[str, Any]]] = {
    "completion": lambda i: {"prompt": f"{i}+{i} =", "completion": f" {2 * i}"},
    "preference": lambda i: {"prompt": f"{i}+{i} =", "chosen": f" {2 * i}", "rejected": f" {i}"},
    "messages": lambda i: {"messages": [{**ASK, "content": f"{i}+{i} ="}, {**ANSWER, "content": f" {2 * i}"}]},
    "text": lambda i: {"text": f"{i} and {i} are {2 * i}"},
    "question": lambda i: {"question": f"{i}+{i}?", "answer": f"{2 * i}"},
    "alpaca": lambda i: {"instruction": "add", "input": f"{i} {i}", "output": f"{2 * i}"},
    "label": lambda i: {"text": f"number {i}", "label": ("odd", "even")[i % 2]},
    "ids": lambda i: {"input_ids": [5, 6, 7 + i % 9], "labels": [-100, -100, 7 + i % 9]},
}

ODD = [
    *(None, True, 0, -1, 2.5, 10**40, 1e308, float("nan"), float("inf"), "", " ", "\n", "\ud800", "\x00", "\u200b" * 9),
    *([], {}, [None], [[]], [1, "a"], [ASK], [{"role": "user"}], [{"content": "x"}], [{"role": "x", "content": 3}]),
    *([ANSWER], [ASK, {**ANSWER, "content": None}], [ASK, {**ANSWER, "content": [{"type": "image"}]}], {"a": 1}),
    *("<eos>", "<eos>" * 50, "x" * 100_000, "\u202e abc", [1] * 5000, ["a"] * 3, "{{ 1/0 }}"),
]

COLUMNS = [
    *("labels", "images", "input_ids", "label", "context", "article", "answer", "chosen", "text", "tools", "messages"),
    *("chat_template_kwargs", "attention_mask", "corrupted_prompt", "wrong", "weight", "id", "", "a" * 500, "\n"),
]

RAW = {
    "empty": b"",
    "blank": b"\n\n \n",
    "no json": b"hello\nworld\n",
    "half a line": b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "comp',
    "a number": b"3\n4\n",
    "a list": b"[]\n[1]\n",
    "bad utf-8": b'{"prompt": "\xff\xfe", "completion": "b"}\n',
    "utf-16": '{"prompt": "a", "completion": "b"}\n'.encode("utf-16"),
    "nul": b"\x00" * 100,
    "deep": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b', "completion": "b"}\n',
    "a number of 5000 digits": b'{"prompt": ' + b"9" * 5000 + b', "completion": "b"}\n',
    "NaN": b'{"prompt": NaN, "completion": "b"}\n',
    "a key twice": b'{"prompt": "a", "prompt": "c", "completion": "b"}\n' * 30,
    "one row": b'{"prompt": "a", "completion": "b"}\n',
    "the same row": b'{"prompt": "a", "completion": "b"}\n' * 50,
    "the same question": b"".join(b'{"prompt": "a", "completion": "b%d"}\n' % i for i in range(50)),
    "10 MB": b'{"prompt": "' + b"x" * 10_000_000 + b'", "completion": "b"}\n' + b'{"prompt": "a", "completion": "b"}\n',
    "zip": b"PK\x03\x04" + bytes(200),
    "pickle": b"\x80\x04cposix\nsystem\n(S'ls'\ntR.",
}


def writable(folder: Path) -> list[Path]:
    return [folder / "cache", folder / "out"]


def maker(folder: Path) -> Callable[[int, random.Random], Case]:
    """``make(number, rng)``: the file of a number, which is checked and, if it passes, localized for."""
    base = folder / "base"
    make_model("llama").save_pretrained(base)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    tokenizer.save_pretrained(base)
    os.chdir(folder)
    words = [f"model={base}", "output=out/run", "localize.examples=4", "train.max_length=48", "max_new_tokens=4"]
    words += ["data.train=12", "data.test=4", "evaluate.retention=none", "localize.retain=none", "control=none"]
    words += ["select.first_layer=0"]

    def make(number: int, rng: random.Random) -> Case:
        name, ending, content = _file(number, rng)
        for old in folder.glob("rows.*"):
            old.unlink()
        path = folder / f"rows.{ending}"
        path.write_bytes(content)
        small = [] if ending == "txt" else words

        def call() -> None:
            for command in ("check", "localize"):
                try:
                    main([command, path.name, *(small or words)])
                except SystemExit as end:
                    if end.code:
                        raise

        return Case(f"{ending}: {name}", call, None)

    return make


def _file(number: int, rng: random.Random) -> tuple[str, str, bytes]:
    """What it is, its ending, its content."""
    if number < len(RAW):
        name = list(RAW)[number]
        return (
            name,
            rng.choice(["jsonl", "jsonl", "json", "csv", "parquet"]) if name != "one row" else "jsonl",
            RAW[name],
        )
    form = rng.choice(sorted(FORMATS))
    rows = [FORMATS[form](i) for i in range(1, 31)]
    way = rng.choice(["value", "value", "value", "value", "column", "missing", "mixed", "bytes", "cut"])
    row = rng.choice([0, 0, 17])
    key = rng.choice(sorted(rows[row]))
    name = f"{form}, {way}"
    if way == "value":
        value = rng.choice(ODD)
        everywhere = rng.random() < 0.3
        for i, each in enumerate(rows):
            if everywhere or i == row:
                each[key] = value
        name += f" {key}={value!r:.30}{' in all rows' * everywhere}"
    elif way == "column":
        extra, value = rng.choice(COLUMNS), rng.choice(ODD)
        for each in rows if rng.random() < 0.5 else rows[row : row + 1]:
            each[extra] = value
        name += f" {extra[:20]!r}={value!r:.30}"
    elif way == "missing":
        del rows[row][key]
    elif way == "mixed":
        rows[row] = FORMATS[rng.choice(sorted(FORMATS))](row)
    ending = rng.choice(["jsonl", "jsonl", "jsonl", "json", "csv", "parquet"])
    content = _written(rows, ending)
    if way in ("bytes", "cut"):
        at = rng.randrange(len(content))
        junk = b"" if way == "cut" else rng.randbytes(rng.randrange(1, 5)) + content[at + 2 :]
        content = content[:at] + junk
    return name, ending, content


def _written(rows: Rows, ending: str) -> bytes:
    if ending == "parquet":
        try:
            out = io.BytesIO()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
            return out.getvalue()
        except (pyarrow.ArrowException, OverflowError, UnicodeError, ValueError):
            return b"PAR1 no table holds these"
    if ending == "csv":
        names = sorted({key for row in rows for key in row})
        lines = [",".join(map(_quoted, names))]
        lines += [",".join(_quoted(str(row.get(name, ""))) for name in names) for row in rows]
        return "\r\n".join(lines).encode("utf-8", "surrogatepass")
    if ending == "json":
        return json.dumps(rows).encode()
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
