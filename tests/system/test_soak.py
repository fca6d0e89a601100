"""What the long check looks for is seen in a short one: growth is found, and there is none."""

from __future__ import annotations

import os
import sys

import pytest
import soak

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_what_is_kept_is_seen():
    kept = []
    gauge = soak.repeated(lambda i: kept.append(b"x" * 3_000_000), 12)
    assert gauge.slope() == pytest.approx(3, rel=0.2)
    assert gauge.files() == 0
    gauge = soak.repeated(lambda i: kept.append(os.open(os.devnull, os.O_RDONLY)), 12)
    assert gauge.files() > 5
    for handle in kept[12:]:
        os.close(handle)


@pytest.mark.slow
def test_a_short_training_and_some_runs_grow_by_little(tmp_path):
    long, did = soak.training(tmp_path / "long", steps=300, every=10, rows=400)
    assert did["localizations"] == 30
    assert did["evicted"] > 100
    assert 100 * long.slope() < 3 * soak.MOST
    assert long.files() <= 0
    many = soak.runs(tmp_path, 6)
    assert many.files() <= 0
