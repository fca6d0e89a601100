"""A disk on which each write of a run fails once: full, or refused, in the words of whoever writes."""

from __future__ import annotations

import builtins
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import peft.peft_model
import safetensors.numpy
import safetensors.torch
import torch
import transformers.modeling_utils
from safetensors import SafetensorError

TORCH = {
    errno.ENOSPC: "[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file data/0",
    errno.EACCES: "File /x/optimizer.pt cannot be opened.",
}


class FullDisk:
    """Lets every write below a folder fail at its first try.

    Args:
        folder: of the run.
        number: ``errno.ENOSPC`` or ``errno.EACCES``.

    Attributes:
        failed: the writes that have failed: what was called, and on which file.
        last: the latest one.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder.resolve(), number
        self.failed: set[tuple[str, str]] = set()
        self.last: tuple[str, str] | None = None

    def check(self, what: str, path: Any, error: Exception) -> None:
        if not isinstance(path, str | os.PathLike):
            return
        place = os.path.realpath(os.fspath(path))
        if not place.startswith(f"{self.folder}{os.sep}"):
            return
        # Temporary names and numbers of steps come and go.
        name = re.sub(r"\.[\w-]{8}\.tmp$", "", place[len(str(self.folder)) + 1 :])
        key = (what, re.sub(r"checkpoint-\d+", "checkpoint", name))
        if key not in self.failed:
            self.failed.add(key)
            self.last = key
            raise error

    @contextmanager
    def failing(self) -> Iterator[FullDisk]:
        """Inside, each write that has not failed yet does."""
        number, told = self.number, os.strerror(self.number)
        # A full disk is met while writing, when nobody knows the name any more.
        bare = OSError(number, told) if number == errno.ENOSPC else None
        opened, replaced, renamed, made = builtins.open, os.replace, os.rename, tempfile.mkstemp
        saved, stored = torch.save, os.posix_fallocate

        def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode) & set("wax+"):
                self.check("open", file, bare or OSError(number, told, str(file)))
            return opened(file, mode, *args, **kwargs)

        def replace_(source: Any, target: Any, **kwargs: Any) -> None:
            self.check("replace", target, OSError(number, told, str(source), None, str(target)))
            replaced(source, target, **kwargs)

        def rename_(source: Any, target: Any, **kwargs: Any) -> None:
            self.check("rename", target, OSError(number, told, str(source), None, str(target)))
            renamed(source, target, **kwargs)

        def mkstemp_(suffix: str = "", prefix: str = "", dir: Any = None, **kwargs: Any) -> Any:
            self.check(
                "mkstemp", Path(dir or "/tmp") / prefix.strip("."), OSError(number, told, f"{dir}/{prefix}x.tmp")
            )
            return made(suffix=suffix, prefix=prefix, dir=dir, **kwargs)

        def torch_save_(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
            self.check("torch.save", f, RuntimeError(TORCH[number]))
            saved(obj, f, *args, **kwargs)

        def fallocate_(handle: int, *args: Any) -> None:
            self.check("fallocate", f"/proc/self/fd/{handle}", OSError(number, told))
            stored(handle, *args)

        def tensors_(save: Any) -> Any:
            def save_(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
                said = f"Error while serializing: I/O error: {told} (os error {number})"
                self.check("safetensors", filename, SafetensorError(said))
                save(tensors, filename, *args, **kwargs)

            return save_

        with ExitStack() as stack:
            for module, name, function in (
                (builtins, "open", open_),
                (os, "replace", replace_),
                (os, "rename", rename_),
                (tempfile, "mkstemp", mkstemp_),
                (torch, "save", torch_save_),
                (os, "posix_fallocate", fallocate_),
                *(
                    (module, name, tensors_(getattr(module, name)))
                    for module, name in (
                        (safetensors.numpy, "save_file"),
                        (safetensors.torch, "save_file"),
                        (peft.peft_model, "safe_save_file"),
                        (transformers.modeling_utils, "safe_save_file"),
                    )
                ),
            ):
                stack.enter_context(mock.patch.object(module, name, function))
            yield self
