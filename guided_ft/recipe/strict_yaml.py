"""YAML for recipes, read strictly: plain data only, every refusal is one line with a line number.

A recipe is passed from hand to hand, so it must not be a program (no tags), not a bomb (no aliases, bounded size, depth
and count), and must mean what it says (no key twice; ``5e-3`` is a number, ``010`` and ``1:30`` are not).
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, NoReturn

import yaml

from ..errors import GuidedError
from ..system.files import Json

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 10_000

CONTROL = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no recipe needs and that terminals, file names and line counts choke on."""

_PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "unexpected ':' (check this line and the one above; put text with ': ' in quotes)",
    ),
    ("could not find expected ':'", "no ':' after a key (write key: value)"),
    ("expected <block end>", "not aligned with the lines above (indent the keys of a section alike)"),
    ("expected ',' or", "a [ or { is not closed (close it)"),
    ("expected the node content", "a value is missing, or begins with a special character (put it in quotes)"),
    ("found unexpected end of stream", "a quote is not closed (close it)"),
    ("found unexpected document separator", "a quote is not closed (close it)"),
    ("found character '\\t'", "a tab (indent with spaces)"),
)
"""The YAML parser's commonest complaints, and what they mean to a person."""


class _Refused(Exception):
    """What is wrong and in which line, before the file's name is known."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Loader(yaml.SafeLoader):
    """SafeLoader without tags, anchors, aliases, repeated keys and most of YAML 1.1's surprises."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]
    depth = 0
    values = 0

    def refuse(self, mark: yaml.Mark, text: str) -> NoReturn:
        raise _Refused(mark.line + 1, text)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Checked before the node is built: nothing hostile is ever constructed, a bomb stops at its first anchor.
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self.refuse(mark, "anchors (&) and aliases (*) are not read (write the value out, or put it in quotes)")
        if event.tag is not None:
            tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.refuse(mark, f"the tag {tag} is not read (remove it, or put the text in quotes)")
        if isinstance(event, yaml.ScalarEvent):
            _refuse_control(event.value, mark.line)  # escapes such as "\0" appear only here
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH:
            self.refuse(mark, f"nested more than {MAX_DEPTH} deep (a recipe needs 3 levels)")
        if self.values > MAX_VALUES:
            self.refuse(mark, f"more than {MAX_VALUES} values (a recipe is a short file)")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                got = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self.refuse(key.start_mark, f"a key must be text, got {got} (put it in quotes)")
            if key.value in lines:
                first = lines[key.value]
                self.refuse(
                    key.start_mark, f"{shown(key.value)} is written twice (keep one; the first is on line {first})"
                )
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_NUMBERS = "-+.0123456789"
_RESOLVERS = (
    ("bool", r"(?i:yes|no|true|false|on|off)", "yYnNtTfFoO"),
    # No leading zero (YAML 1.1 reads 010 as 8), no base 60, and short enough for Python's own limit on digits.
    ("int", r"[-+]?(?:0|[1-9][0-9_]{0,30})", _NUMBERS),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?", _NUMBERS),
    ("float", r"[-+]?\.(?i:inf)|\.(?i:nan)", _NUMBERS),
    ("null", r"~|(?i:null)|", ["~", "n", "N", ""]),
)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which the loader above would take for a number."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def shown(text: str, limit: int = 40) -> str:
    """Text from a file as it may appear in a message: quoted, on one line, not long."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def shown_path(path: str, limit: int = 80) -> str:
    """A path as ``shown`` shows text, but of a long one its end, which says what file it is."""
    return repr(path if len(path) <= limit else "..." + path[-limit:])


def parse(text: str, where: str, *, lines: bool = True) -> Any:
    """Return the plain data of one YAML document; empty text is None.

    Args:
        text: the YAML.
        where: what messages begin with, such as the file's name.
        lines: say the line number in messages.

    Raises:
        GuidedError: one line that says what, where and how to mend it.
    """
    try:
        _refuse_control(text)
        return _construct(text)
    except _Refused as refused:
        line, what = refused.line, str(refused)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, what = (mark.line + 1 if mark else 1), _in_plain_words(error)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        # What is left: escapes such as "\UFFFFFFFF", which name no character.
        line, what = 1, "not valid YAML (check the escapes in quoted text)"
    raise GuidedError(f"{where}: line {line}: {what}" if lines else f"{where}: {what}")


def read_mapping(path: str | os.PathLike[str], where: str) -> Json:
    """Read a YAML file that holds one mapping with text keys. Raises GuidedError for anything else."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise GuidedError(f"{where}: cannot be read: {reason} (check the path)") from None
    if len(raw) > MAX_BYTES:
        raise GuidedError(f"{where}: larger than {MAX_BYTES} bytes (a recipe is a short file)")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise GuidedError(f"{where}: line {line}: not UTF-8 text (save the file as UTF-8)") from None
    data = parse(text, where)
    if data is None:
        raise GuidedError(f"{where}: empty (start from a shipped one: guided-ft recipes copy quickstart)")
    if not isinstance(data, dict):
        raise GuidedError(f"{where}: not a mapping (write lines such as 'seed: 0')")
    return data


def dump(data: Mapping[str, object]) -> str:
    """Return YAML that ``parse`` reads back to the same data."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _construct(text: str) -> Any:
    loader = _Loader(text)
    try:
        loader.get_event()  # the start of the stream
        if loader.check_event(yaml.StreamEndEvent):
            return None
        node = loader.compose_document()
        if not loader.check_event(yaml.StreamEndEvent):
            loader.refuse(loader.peek_event().start_mark, "a second document begins (one recipe is one document)")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _refuse_control(text: str, line: int = 0) -> None:
    found = CONTROL.search(text)
    if found is not None:
        line += text.count("\n", 0, found.start()) + 1
        raise _Refused(line, f"the control character {found[0]!a} (remove it)")


def _in_plain_words(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(str(error.problem or error.context).split())
    for start, words in _PLAIN_WORDS:
        if problem.startswith(start):
            return words
    return f"not valid YAML, {problem} (put text with special characters in quotes)"
