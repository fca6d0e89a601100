"""Damage for files: seeded, so that every failure can be repeated."""

from __future__ import annotations

import copy
import math
import random
import struct

_WEIRD = [None, True, -1, 0, 2.5, 10**400, math.inf, math.nan, "", "L9.H9", "x" * 50, [], ["L0"], {}, {"a": 1}]


def mutated(data, rng: random.Random):
    """A deep copy with one value, anywhere, replaced or removed."""
    data = copy.deepcopy(data)
    at = data
    while True:
        key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.8:
            at = at[key]
        elif rng.random() < 0.2:
            del at[key]
            return data
        else:
            at[key] = rng.choice(_WEIRD)
            return data


def damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    kind = rng.randrange(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return rng.randbytes(at)
    if kind == 2:
        return content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:]
    if kind == 3:
        return struct.pack("<Q", rng.choice([0, 1, 2**40, 2**63])) + content[8:]
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        # Mostly in the header, where a change means most.
        changed[rng.randrange(min(len(content), 300)) if kind == 4 else rng.randrange(len(content))] = rng.randrange(
            256
        )
    return bytes(changed)
