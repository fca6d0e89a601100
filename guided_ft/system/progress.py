"""What is shown on the way: progress bars on a terminal, and nothing that no user can mend."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, title: str, show: bool | None = None) -> Iterator[T]:
    """Yield items behind a progress bar on stderr; ``show=None`` shows it only on a terminal."""
    from tqdm import tqdm

    show = sys.stderr.isatty() if show is None else show
    yield from tqdm(items, total=total, desc=title, disable=not show, leave=False)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep back what the libraries say that no user can mend."""
    # It misses a kernel that nothing here needs, and says at every pass over an int8 base what it always does.
    for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Settings that the libraries pass to each other under their old names.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft")
        yield
