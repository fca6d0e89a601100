"""Procedural skills for a very small model: rows of any number, seeded, with one right answer each. Imports no torch.

A skill is a line ``prompt=answer``. The old ones and the text are what the testbed's model is pre-trained on, and what
it may forget; the new ones are near enough to the old ones that a hundred steps can teach them. They lie at different
distances: an old skill by a new name, two old skills in one, a skill like an old one, a new mapping, and new facts.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

Row = dict[str, str]
"""``prompt`` and ``completion``, as TRL names them."""

LETTERS = string.ascii_lowercase
JOBS = ("baker", "pilot", "miner", "nurse", "tailor", "judge", "farmer", "singer")
TOWNS = ("Oslo", "Lima", "Rome", "Cairo", "Delhi", "Quito", "Paris", "Seoul")
PETS = ("cat", "dog", "owl", "fox", "hen", "eel", "ant", "bee")


def _word(rng: random.Random, low: int = 3, high: int = 6) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(low, high)))


def _shifted(word: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(c) + by) % 26] for c in word)


def _copy(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"copy {word}", word


def _reverse(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"rev {word}", word[::-1]


def _sort(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"sort {word}", "".join(sorted(word))


def _upper(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"up {word}", word.upper()


def _next(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"next {word}", _shifted(word, 1)


def _largest(rng: random.Random) -> tuple[str, str]:
    digits = "".join(rng.choices(string.digits, k=rng.randint(3, 6)))
    return f"max {digits}", max(digits)


def _add(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return f"{a}+{b}", str(a + b)


def _capitals(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"caps {word}", word.upper()


def _next_upper(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"nextup {word}", _shifted(word, 1).upper()


def _smallest(rng: random.Random) -> tuple[str, str]:
    digits = "".join(rng.choices(string.digits, k=rng.randint(3, 6)))
    return f"min {digits}", min(digits)


def _later(rng: random.Random) -> tuple[str, str]:
    word = _word(rng)
    return f"skip {word}", _shifted(word, 2)


def _person(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A made-up name and what is known of it: the same for ever, whoever asks."""
    name = _word(rng, 4, 6).capitalize()
    about = random.Random(f"person {name}")
    return name, {"job": about.choice(JOBS), "town": about.choice(TOWNS), "pet": about.choice(PETS)}


def _known_person(rng: random.Random) -> tuple[str, dict[str, str]]:
    return _person(random.Random(rng.randrange(300)))


def _fact(rng: random.Random) -> tuple[str, str]:
    name, known = _known_person(rng)
    what = rng.choice(sorted(known))
    return f"{what} of {name}", known[what]


def _new_fact(rng: random.Random) -> tuple[str, str]:
    name, known = _person(rng)
    what = rng.choice(sorted(known))
    return f"{what} of {name}", known[what]


_SUBJECTS = ("The old man", "A small dog", "My sister", "The teacher", "One of them", "Nobody", "The king", "A bird")
_VERBS = ("saw", "found", "took", "wanted", "lost", "painted", "carried", "forgot")
_OBJECTS = ("a red house", "the river", "some bread", "a letter", "the moon", "his coat", "two stones", "the road")
_ENDS = ("at night", "in spring", "by the sea", "on Monday", "without a word", "again", "for a while", "near the wood")


def text(rng: random.Random) -> str:
    """A few sentences: of the things that happen, and of the people that the old facts tell of."""
    sentences = []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.3:
            name, known = _known_person(rng)
            sentences.append(f"{name} is a {known['job']} from {known['town']} with a {known['pet']}.")
        else:
            sentences.append(" ".join(map(rng.choice, (_SUBJECTS, _VERBS, _OBJECTS, _ENDS))) + ".")
    return " ".join(sentences)


OLD: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "upper": _upper,
    "next": _next,
    "largest": _largest,
    "add": _add,
    "fact": _fact,
}
"""What the model is pre-trained on, besides text."""

NEW: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "capitals": _capitals,
    "next_upper": _next_upper,
    "later": _later,
    "smallest": _smallest,
    "new_fact": _new_fact,
}
"""What is fine-tuned. Facts are to be remembered: their test asks for what was trained."""

REMEMBERED = ("new_fact",)


def rows(skill: str, count: int, seed: int) -> list[Row]:
    """Return ``count`` different rows of a skill; another seed, other rows."""
    rng = random.Random(f"{skill} {seed}")
    make = (OLD | NEW)[skill]
    found: dict[str, str] = {}
    while len(found) < count:
        prompt, answer = make(rng)
        found.setdefault(prompt, answer)
    return [{"prompt": f"{prompt}=", "completion": answer} for prompt, answer in found.items()]


def split(skill: str, train: int, test: int, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Return training, validation and test rows; no prompt is in two of them, but of facts they are all the same.

    Different training sizes of one seed hold the same first rows and are tested on the same test rows.
    """
    if skill in REMEMBERED:
        kept = rows(skill, train, seed)
        return kept, kept[0::2][:test], kept[1::2][:test]
    drawn = rows(skill, train + 2 * test, seed)
    return drawn[2 * test :], drawn[test : 2 * test], drawn[:test]


def mixture(rng: random.Random) -> str:
    """One line of what the model is pre-trained on: a skill, three times in four, or text."""
    if rng.random() < 0.25:
        return text(rng)
    prompt, answer = rng.choice(list(OLD.values()))(rng)
    return f"{prompt}={answer}"
