"""What a figure was measured on: machine, versions, memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    import resource
except ImportError:  # none on Windows
    resource = None  # type: ignore[assignment]

_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that a result depends on."""
    found = {"guided_ft": version("guided-ft"), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The processor or accelerator, in words.

    A processor's name may say nothing of its instructions (those of virtual machines don't), and they decide how fast
    it is: ``2 x AMD EPYC, AVX2``.
    """
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} x {_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def give_back() -> None:
    """Return memory that is free to the system (Linux): else what was used in small pieces stays, and is of no use to
    what needs large ones."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    """Let ``peak_bytes`` start anew from what is in use now: on a GPU, and of the process where that works (Linux)."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    # What is free but kept would pass for memory that a later run needs.
    give_back()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Largest resident memory of this process so far, plus the peak of the GPU if one is used."""
    import torch

    return _resident_peak() + (torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0)


def _resident_peak() -> int:
    # On Linux getrusage tells the peak of the process that started this one, if that was larger.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if resource is None:
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
