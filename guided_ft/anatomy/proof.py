"""``Proof``: what was found when a family's map was put to the test on a tiny random model."""

from __future__ import annotations

from dataclasses import dataclass

from .family import PROVED_APART


@dataclass(frozen=True)
class Finding:
    """One law and whether it holds.

    Args:
        name: of the law, one word.
        says: the law.
        words: figures if it holds; if not, what was seen instead.
    """

    name: str
    says: str
    holds: bool
    words: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'NOT '} {self.name:9} {self.says} ({self.words})"


@dataclass(frozen=True)
class Proof:
    """The findings about one family. True if all that training and exact ablation need was found to hold.

    Args:
        family: the model type; inside a wrapper, that of the wrapper before it.
        layout: the row of ``FAMILIES`` that was put to the test.
        findings: in order; of those in ``PROVED_APART`` only scorers of the residual stream make use.
    """

    family: str
    layout: str
    findings: tuple[Finding, ...]
    seconds: float

    def __bool__(self) -> bool:
        return all(f.holds for f in self.findings if f.name not in PROVED_APART)

    @property
    def unproved(self) -> tuple[str, ...]:
        """Which of ``PROVED_APART`` does not hold."""
        return tuple(f.name for f in self.findings if f.name in PROVED_APART and not f.holds)

    def __str__(self) -> str:
        head = "proved" if self else "not proved"
        title = f"{self.family} (layout {self.layout}): {head} on a tiny random copy, {self.seconds:.1f} s"
        return "\n".join([title, *(f"  {finding}" for finding in self.findings)])

    def refusal(self) -> str:
        """Why the family is refused, in one line."""
        first = next(f for f in self.findings if not f.holds and f.name not in PROVED_APART)
        return (
            f"{self.family}: built like {self.layout!r}, but the proof of {first.name!r} failed: {first.words} "
            "(print(Anatomy.prove(model)) tells more; a Family row of its own would say it right)"
        )
