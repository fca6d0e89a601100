"""Control-C and the polite end of a process: asked once, a training saves and stops; asked again, it stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether an end was asked for.

    Attributes:
        asked: since the ``with`` block began.
    """

    asked = False


@contextlib.contextmanager
def stop_on_request() -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM sets ``asked``, and the next one raises KeyboardInterrupt.

    In a thread that is not the main one, signals go where they went before.
    """
    request = StopRequest()

    def ask(number: int, frame: object) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    with _handled(ask):
        yield request


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt, as Control-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt):
        yield


@contextlib.contextmanager
def _handled(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, former in before.items():
            # None: set by something that is not Python.
            signal.signal(number, signal.SIG_DFL if former is None else former)
