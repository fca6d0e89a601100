"""What no user can mend is not said."""

from __future__ import annotations

import subprocess
import sys


def test_a_kernel_that_bitsandbytes_misses_is_no_news_in_python():
    """Whether it is missing depends on the machine, so its words are said here; others on the same logger are heard."""
    code = """
import logging, guided_ft
logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "x")
logger.warning("something else")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "something else\n"
