"""The paired statistics, against tables, enumeration by other means and simulation."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from bench_rows import row
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.side_by_side.rows import statistics
from benchmarks.side_by_side.rows.curves import clock, forgetting_at, score_by, seconds_to, shared_target
from benchmarks.side_by_side.rows.rates import EXAMPLES, best_rate, sweep_of
from benchmarks.side_by_side.suites import skills, smollm2, testbed

VALUE = st.integers(-20, 20).map(float)


def singles(values):
    """One run a seed."""
    return {seed: {0: value} for seed, value in enumerate(values)}


# -- Student's t: printed tables --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("share", "degrees", "known"),
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 3, 3.18245), (0.975, 4, 2.77645), (0.975, 10, 2.22814),
        (0.975, 30, 2.04227), (0.95, 5, 2.01505), (0.995, 7, 3.49948), (0.9995, 3, 12.9240), (0.5, 4, 0.0),
    ],
)  # fmt: skip
def test_quantiles_of_student(share, degrees, known):
    assert statistics.student_quantile(share, degrees) == pytest.approx(known, rel=1e-5, abs=1e-9)


# -- p values: every relabelling, by hand -----------------------------------------------------------------------------
def by_hand(first, second):
    """Deal the runs of every seed anew in all orders; the share at least as far apart as they are."""

    def apart(deal):
        return np.mean([np.mean(a) - np.mean(b) for a, b in deal])

    deals = []
    for seed in sorted(first):
        values, size = [*first[seed].values(), *second[seed].values()], len(first[seed])
        deals.append([(order[:size], order[size:]) for order in itertools.permutations(values)])
    seen = abs(apart([(list(first[s].values()), list(second[s].values())) for s in sorted(first)]))
    return np.mean([abs(apart(deal)) >= seen - 1e-9 for deal in itertools.product(*deals)])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_p_is_the_share_of_relabellings(data):
    seeds = range(data.draw(st.integers(1, 3)))
    draws = data.draw(st.integers(1, 3))
    first = {seed: {0: data.draw(VALUE)} for seed in seeds}
    second = {seed: {draw: data.draw(VALUE) for draw in range(draws)} for seed in seeds}
    p = statistics.permutation_p(first, second)
    assert p == pytest.approx(by_hand(first, second))
    assert statistics.permutation_p(second, first) == pytest.approx(p)
    assert p >= statistics.least_p(first, second) - 1e-12


@pytest.mark.parametrize(
    ("seeds", "draws", "known"), [(3, 1, 2 / 8), (5, 1, 2 / 32), (6, 1, 2 / 64), (3, 3, 1 / 64), (2, 5, 1 / 36)]
)
def test_the_least_p_is_reached_and_known(seeds, draws, known):
    first = singles(100.0 + seed for seed in range(seeds))
    second = {seed: {draw: float(draw) for draw in range(draws)} for seed in range(seeds)}
    assert statistics.least_p(first, second) == pytest.approx(known)
    assert statistics.permutation_p(first, second) == pytest.approx(known)


def test_a_drawn_p_is_near_the_exact_one(monkeypatch):
    noise = random.Random(1)
    first, second = singles(noise.gauss(0.5, 1) for _ in range(12)), singles(noise.gauss(0, 1) for _ in range(12))
    exact = statistics.permutation_p(first, second)
    monkeypatch.setattr(statistics, "EXACT", 4000)
    drawn = statistics.permutation_p(first, second)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_p_is_fair_where_nothing_differs():
    """At most a twentieth of the comparisons of equals come out below 0.05."""
    noise = random.Random(2)
    below = 0
    for _ in range(400):
        first = singles(noise.gauss(0, 1) for _ in range(3))
        second = {seed: {draw: noise.gauss(0, 1) for draw in range(3)} for seed in range(3)}
        below += statistics.permutation_p(first, second) < 0.05
    assert 4 <= below <= 0.05 * 400 + 9


# -- Holm ---------------------------------------------------------------------------------------------------------------
def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.02, None, 0.9]) == [0.04, None, 0.9]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_none_and_bonferroni(values):
    for p, adjusted in zip(values, statistics.holm(values), strict=True):
        assert p <= adjusted <= min(1.0, p * len(values)) + 1e-12


# -- intervals ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_what_they_promise(monkeypatch, seeds):
    """Seeds differ (sd 2), and draws within them (sd 1): 95 of 100 intervals hold the truth, also for few seeds."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    noise = np.random.default_rng(seeds)
    held, rounds = 0, 400
    for i in range(rounds):
        clusters = [noise.normal(3 + noise.normal(0, 2), 1, 5) for _ in range(seeds)]
        low, high = statistics.interval(clusters, seed=i)
        held += low <= 3 <= high
    assert 0.91 <= held / rounds <= 0.99


def test_one_seed_has_no_interval_and_no_effect():
    clusters = [np.array([1.0, 2.0, 3.0])]
    assert statistics.interval(clusters) is None
    assert statistics.mean_difference(clusters) == 2.0


def test_a_seed_with_more_draws_weighs_no_more():
    assert statistics.mean_difference([np.array([0.0] * 9), np.array([4.0])]) == 2.0


# -- pairs and spread -------------------------------------------------------------------------------------------------------
def test_pairs():
    drawn = {0: {0: 1.0, 1: 2.0}, 1: {0: 5.0}, 2: {0: 9.0}}
    found = statistics.paired({0: {0: 10.0}, 1: {0: 20.0}, 3: {0: 30.0}}, drawn)
    assert found == {0: ([10.0, 10.0], [1.0, 2.0]), 1: ([20.0], [5.0])}
    same = statistics.paired({0: {0: 1.0, 1: 2.0, 2: 3.0}}, {0: {1: 5.0, 2: 6.0, 3: 7.0}})
    assert same == {0: ([2.0, 3.0], [5.0, 6.0])}
    assert statistics.permutation_p({0: {0: 1.0}}, {1: {0: 1.0}}) is None


def test_spread_and_effect_size():
    assert statistics.spread([2, 4, 4, 4, 5, 5, 7, 9]) == statistics.Spread(5.0, pytest.approx(math.sqrt(32 / 7)), 8)
    assert statistics.spread([3.0]) == statistics.Spread(3.0, None, 1)
    assert statistics.spread([]) is None
    assert statistics.effect_size([np.array([x]) for x in (1.0, 2.0, 3.0)]) == pytest.approx(2.0)
    assert statistics.effect_size([np.array([2.0]), np.array([2.0])]) is None


# -- curves: interpolation ----------------------------------------------------------------------------------------------------
def run(*points, localize=0.0):
    """(score, forgetting, seconds) at steps 0, 10, 20..."""
    names = ("score", "forgetting", "seconds")
    curve = [{"step": 10 * i} | dict(zip(names, point, strict=True)) for i, point in enumerate(points)]
    return row(curve=curve, localize_seconds=localize)


def test_forgetting_and_time_at_a_score():
    dips = run((0, 0.0, 2), (40, 0.1, 12), (30, 0.4, 22), (80, 0.6, 32), localize=2.0)
    assert forgetting_at(dips, 20) == pytest.approx(0.05)
    # From the best so far (40) to 80; half the way from where it stood at 30.
    assert forgetting_at(dips, 60) == pytest.approx(0.5)
    assert seconds_to(dips, 60) == pytest.approx(27)
    assert seconds_to(dips, 0) == 2.0
    assert forgetting_at(dips, 81) is None
    assert forgetting_at(row(curve=[]), 1) is None


def test_localization_is_in_the_time_once():
    late, early = run((0, 0.0, 5), (50, 0.1, 15), localize=5.0), run((0, 0.0, 0), (50, 0.1, 10), localize=5.0)
    assert seconds_to(late, 50) == seconds_to(early, 50) == 15


def test_the_score_by_a_time_is_the_best_so_far():
    dips = run((10, 0.0, 2.0), (40, 0.1, 12.0), (30, 0.2, 22.0), (60, 0.3, 32.0), localize=2.0)
    assert [score_by(dips, s) for s in (0, 2, 7, 12, 22, 27, 32, 99)] == [10, 10, 25, 40, 40, 50, 60, 60]
    assert score_by(row(curve=[]), 1) is None


def test_the_clock_is_the_processors_where_it_was_read():
    points = [{"step": i, "score": 0, "forgetting": 0, "seconds": 9.0 + i, "cpu_seconds": 3.0 + i} for i in (0, 1)]
    assert clock(row(curve=points, localize_seconds=5.0)) == [3.0, 4.0]
    del points[1]["cpu_seconds"]
    assert clock(row(curve=points, localize_seconds=5.0)) == [5.0, 6.0]


def test_the_score_that_all_runs_reach():
    first, second = run((0, 0.0, 0), (60, 0.1, 1), (50, 0.2, 2)), run((0, 0.0, 0), (80, 0.1, 1))
    assert shared_target([first, second]) == 60
    assert shared_target([first, run((0, 0.0, 0), (4, 0.1, 1))]) is None
    assert shared_target([first, row(curve=[])]) is None


# -- learning rates -------------------------------------------------------------------------------------------------------------
def sweep(*runs):
    return [row(phase="sweep", lr=lr, validation=v, forgetting=f, score=s) for lr, v, f, s in runs]


def test_the_best_rate_is_chosen_on_validation():
    assert best_rate(sweep((1e-3, 50, 0.1, 99), (1e-2, 60, 0.9, 10))) == 1e-2
    assert best_rate(sweep((1e-3, 60, 0.2, 0), (1e-2, 60, 0.1, 0))) == 1e-2, "ties go to less forgetting"
    assert best_rate(sweep((1e-3, 60, 0.1, 0), (1e-2, 60, 0.1, 0))) == 1e-3, "then to the lower rate"
    assert best_rate(sweep((1e-3, 60, None, 0), (1e-2, 60, 9.0, 0))) == 1e-2, "a diverged run loses a tie"
    assert best_rate([]) is None


def test_the_gentlest_rate_is_the_lowest_that_the_examples_cannot_tell_from_the_best():
    # The standard error of 80 % of 100 examples is 4 points.
    assert sweep_of(sweep((1e-3, 75.9, 0, 0), (3e-3, 76, 0, 0), (1e-2, 79, 0, 0), (3e-2, 80, 0, 0))).gentlest == 3e-3
    runs = sweep((3e-3, 76, 0, 0), (1e-2, 79, 0, 0), (3e-2, 80, 0, 0))
    assert sweep_of([*runs, *runs]).gentlest == 1e-2, "with twice the runs it is 2.8"
    assert sweep_of(sweep((1e-3, 100, 0.2, 0), (1e-2, 100, 0.1, 0), (3e-2, 99, 0, 0))).gentlest == 1e-3


@pytest.mark.parametrize("problem", ["sums", "sum_pairs"])
def test_sweeps_are_judged_on_as_many_examples_as_is_said(problem):
    rows = {"sums": smollm2._sums, "sum_pairs": smollm2._sum_pairs}[problem]
    assert len(rows(300, 0)[1]) == EXAMPLES


@pytest.mark.parametrize("skill", skills.NEW)
def test_those_of_the_testbed_too(skill):
    assert len(testbed._rows(skill)(300, 0)[1]) == EXAMPLES


def test_what_a_rule_loses():
    found = sweep_of(sweep((1e-4, 10, 0.1, 20), (1e-3, 60, 0.1, 70), (1e-2, 50, 0.1, 50)))
    assert not found.on_edge
    assert found.regret(1e-3) == 0
    assert found.regret(1e-2) == 20
    assert found.regret(math.sqrt(1e-3 * 1e-2)) == pytest.approx(10)
    assert found.regret(1e-1) is None
    assert sweep_of(sweep((1e-3, 60, 0.1, 70))).on_edge


def test_beside_a_rate_that_diverged_forgetting_is_infinite():
    found = sweep_of(sweep((1e-4, 10, None, 20), (1e-3, 60, 0.1, 70), (1e-2, 50, None, 50)))
    assert found.at(found.forgetting, 3e-4) == found.at(found.forgetting, 3e-3) == math.inf
    assert found.at(found.forgetting, 1e-3) == 0.1
