"""Progress bars: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, title: str, show: bool | None = None) -> Iterator[T]:
    """Yield items behind a progress bar on stderr; ``show=None`` shows it only on a terminal."""
    from tqdm import tqdm

    show = sys.stderr.isatty() if show is None else show
    yield from tqdm(items, total=total, desc=title, disable=not show, leave=False)
