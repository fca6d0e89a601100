"""What is shown on the way: progress bars on a terminal, and nothing that no user can mend."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, title: str, show: bool | None = None) -> Iterator[T]:
    """Yield items behind a progress bar on stderr; ``show=None`` shows it only on a terminal."""
    from tqdm import tqdm

    show = sys.stderr.isatty() if show is None else show
    yield from tqdm(items, total=total, desc=title, disable=not show, leave=False)


def drop_kernel_notice() -> None:
    """Keep back what bitsandbytes says whenever PEFT imports it on a CPU: that it misses a kernel no one here needs."""
    _keep_back("bitsandbytes.backends.cpu.ops", "gemm_4bit_forward")


def drop_loading_report() -> None:
    """Keep back the table in which transformers tells of weights that fit no model: they are refused by name."""
    _keep_back("transformers.modeling_utils", "LOAD REPORT")


def drop_border_notice() -> None:
    """Keep back what TRL says, at length, of answers that are joined with their prompts: a line of ours tells it."""
    _keep_back("trl.trainer.dpo_trainer", "The tokenized prompt is not a prefix of")


@dataclass(frozen=True)
class _Without:
    """A filter of all messages but those with these words; equal ones are one."""

    words: str

    def __call__(self, record: logging.LogRecord) -> bool:
        return self.words not in record.getMessage()


def _keep_back(logger: str, words: str) -> None:
    without = _Without(words)
    if without not in logging.getLogger(logger).filters:
        logging.getLogger(logger).addFilter(without)


def drop_vocabulary_notice(name: str = "") -> None:
    """Keep back what PEFT says when it saves an adapter of a model that it cannot look up on the Hub: that it takes the
    vocabulary for unchanged.

    Args:
        name: of a model that is known to lie elsewhere; empty: any, where nothing changes a vocabulary.
    """
    for told in ("Could not find a config file in ", "Unable to fetch remote file .* for the file config.json in "):
        warnings.filterwarnings("ignore", told + re.escape(name), UserWarning, r"peft\.utils")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep back what the libraries say that no user can mend."""
    # bitsandbytes says at every pass over an int8 base what it always does.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Settings that the libraries pass to each other under their old names.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft")
        drop_vocabulary_notice()
        yield
