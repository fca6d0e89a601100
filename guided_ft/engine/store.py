"""Hidden states by content, in a memory-mapped file of bounded size: when it is full, the oldest make room."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import zlib
from pathlib import Path

import torch

from ..errors import GuidedError
from ..system.files import read_text, write_text

logger = logging.getLogger(__name__)

FIRST_BYTES = 64 << 20
"""The file starts this large and doubles when it is full, up to its limit."""

HEADER_BYTES = 256
"""Room for the header of a safetensors file, whose numbers change when the file grows."""

FILE, INDEX = "hidden.safetensors", "index.csv"
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_FIELDS = ["key", "start", "tokens", "crc32"]


class PrefixStore:
    """A ring of token rows, ``[capacity, width]``, and an index of which entry lies where.

    The index is written by ``flush``; what was overwritten since then is found out by its checksum when it is first
    read, so a run that was killed never reads another example's states.

    Args:
        folder: where ``hidden.safetensors`` and ``index.csv`` lie; entries found there are taken over. None: in
            memory.
        width: features of a token.
        dtype: of the features.
        limit: largest size in bytes.
    """

    def __init__(self, folder: Path | None, width: int, dtype: torch.dtype, limit: int) -> None:
        self.folder, self.width, self.dtype = folder, width, dtype
        self.token_bytes = width * dtype.itemsize
        self.max_tokens = limit // self.token_bytes
        self._entries: dict[str, tuple[int, int, int]] = {}
        self._doubted: set[str] = set()
        self._head = 0
        self._ring = torch.empty(0, width, dtype=dtype)
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._read_index()
            except OSError as error:
                self._go_without(error)

    @property
    def path(self) -> Path | None:
        return None if self.folder is None else self.folder / FILE

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> torch.Tensor | None:
        """The states ``[tokens, width]`` under a key, or None. They stay valid until the next ``put``."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        start, tokens, crc = entry
        states = self._ring[start : start + tokens]
        if key in self._doubted:
            if _crc(states) != crc:
                del self._entries[key]
                return None
            self._doubted.discard(key)
        return states

    def put(self, key: str, states: torch.Tensor) -> None:
        """Keep ``states [tokens, width]``; not those longer than the ring, or of a dtype that would round them."""
        tokens = len(states)
        if not self.max_tokens or key in self._entries or tokens > self.max_tokens or states.dtype != self.dtype:
            return
        self._make_room(tokens)
        if self._head + tokens > len(self._ring):
            return
        place = self._ring[self._head : self._head + tokens]
        place.copy_(states)
        self._entries[key] = (self._head, tokens, _crc(place))
        self._head += tokens

    def flush(self) -> None:
        """Write the index, so that a later process can go on with it."""
        if self.folder is None or not self.max_tokens:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_FIELDS)
        writer.writerows((key, *entry) for key, entry in self._entries.items())
        try:
            write_text(self.folder / INDEX, text.getvalue())
        except OSError as error:
            # The states stay in use; a later process computes them anew.
            logger.warning("prefix cache: %s cannot be written (%s)", self.folder / INDEX, error.strerror)

    def close(self) -> None:
        """Write the index and let the file go."""
        self.flush()
        self._ring = self._ring[:0].clone()
        self._entries.clear()

    # -- the ring ---------------------------------------------------------------------------------------------------
    def _make_room(self, tokens: int) -> None:
        """Move the head to where ``tokens`` rows fit, and drop the oldest entries that lie there."""
        if self._head + tokens > len(self._ring) and len(self._ring) < self.max_tokens:
            self._grow(self._head + tokens)
        if self._head + tokens > len(self._ring):
            for key in [k for k, (start, _, _) in self._entries.items() if start >= self._head]:
                del self._entries[key]
            self._head = 0
        end = self._head + tokens
        while self._entries:
            oldest = next(iter(self._entries))
            start, length, _ = self._entries[oldest]
            if start >= end or start + length <= self._head:
                break
            del self._entries[oldest]

    def _grow(self, wanted: int) -> None:
        size = min(self.max_tokens, max(wanted, 2 * len(self._ring), FIRST_BYTES // self.token_bytes))
        if self.path is None:
            ring = torch.empty(size, self.width, dtype=self.dtype)
            ring[: len(self._ring)] = self._ring
            self._ring = ring
            return
        try:
            self._resize(self.path, size)
        except OSError as error:
            if len(self._ring):
                self.max_tokens = len(self._ring)
            else:
                self._go_without(error)
            return
        self._map(size)

    def _resize(self, path: Path, tokens: int) -> None:
        with open(path, "r+b" if path.exists() else "w+b") as file:
            # Reserved for good: a sparse file on a full disk would kill the process when it is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, HEADER_BYTES + tokens * self.token_bytes)
            file.truncate(HEADER_BYTES + tokens * self.token_bytes)
            file.write(self._header(tokens))

    def _go_without(self, error: OSError) -> None:
        """A cache saves time and no more: where there is no room for it, the run goes on."""
        logger.warning("prefix cache: no room for it in %s (%s), it goes on without", self.folder, error.strerror)
        self.max_tokens = 0

    def _header(self, tokens: int) -> bytes:
        tensor = {"dtype": _DTYPES[self.dtype], "shape": [tokens, self.width]}
        tensor["data_offsets"] = [0, tokens * self.token_bytes]
        text = json.dumps({"hidden": tensor}).encode().ljust(HEADER_BYTES - 8)
        return len(text).to_bytes(8, "little") + text

    def _map(self, tokens: int) -> None:
        size = HEADER_BYTES + tokens * self.token_bytes
        data = torch.from_file(str(self.path), shared=True, size=size, dtype=torch.uint8)
        self._ring = data[HEADER_BYTES:].view(self.dtype).view(tokens, self.width)

    def _read_index(self) -> None:
        assert self.folder is not None
        assert self.path is not None
        index = self.folder / INDEX
        if not index.is_file() or not self.path.is_file():
            return
        tokens = (self.path.stat().st_size - HEADER_BYTES) // self.token_bytes
        if tokens > self.max_tokens:
            # It was made with a larger limit.
            tokens = self.max_tokens
            self._resize(self.path, tokens)
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(index))))
            found = {row["key"]: (int(row["start"]), int(row["tokens"]), int(row["crc32"])) for row in rows}
        except (GuidedError, KeyError, TypeError, ValueError, csv.Error):
            return
        self._entries = {k: e for k, e in found.items() if e[0] >= 0 < e[1] and e[0] + e[1] <= tokens}
        self._doubted = set(self._entries)
        if self._entries:
            self._map(tokens)
            # The newest was written last: the ring goes on behind it.
            start, length, _ = next(reversed(self._entries.values()))
            self._head = start + length


def clear_others(root: Path, keep: str) -> None:
    """Remove the stores of other models or depths, so that a folder never holds more than one limit's worth."""
    for path in root.iterdir() if root.is_dir() else ():
        if path.is_dir() and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _crc(states: torch.Tensor) -> int:
    return zlib.crc32(states.contiguous().view(torch.uint8).reshape(-1).numpy().data)
