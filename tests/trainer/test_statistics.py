"""The gate's statistics against published values and against values computed another way."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom

from feedback.paired import tango_interval, tango_score
from trainer.statistics import (
    bootstrap_interval,
    cases_for_non_inferiority,
    cases_for_superiority,
    mcnemar_exact,
    median_ratio,
)


@pytest.mark.parametrize(
    ("fixes", "regressions", "cases", "low", "high"),
    [
        # Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014): airway responsiveness of 21 children
        (1, 7, 21, -0.517, -0.026),
        # Agresti, "An Introduction to Categorical Data Analysis": approval by 1,600 voters (score interval)
        (150, 86, 1600, 0.021, 0.059),
    ],
)
def test_tangos_interval_has_the_published_bounds(
    fixes: int, regressions: int, cases: int, low: float, high: float
) -> None:
    assert tango_interval(fixes, regressions, cases) == pytest.approx((low, high), abs=0.0006)


@pytest.mark.parametrize(
    ("fixes", "regressions", "cases"), [(3, 9, 40), (31, 9, 312), (0, 6, 50), (60, 60, 600), (2, 0, 5)]
)
def test_tangos_bounds_are_where_the_likelihood_says_they_are(
    fixes: int, regressions: int, cases: int
) -> None:
    """The same interval from the definition: nuisance share maximised numerically, score solved by Brent's method."""

    def score(difference: float) -> float:
        def loss(regressed: float) -> float:
            fixed = regressed + difference
            same = 1 - fixed - regressed
            parts = ((fixes, fixed), (regressions, regressed), (cases - fixes - regressions, same))
            return -sum(count * math.log(max(share, 1e-300)) for count, share in parts if count)

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        variance = cases * (2 * share + difference * (1 - difference))
        return (fixes - regressions - cases * difference) / math.sqrt(variance)

    z = NormalDist().inv_cdf(0.975)
    observed = (fixes - regressions) / cases
    low = brentq(lambda d: score(d) - z, -0.999, observed - 1e-6)
    high = brentq(lambda d: score(d) + z, observed + 1e-6, 0.999)
    assert tango_interval(fixes, regressions, cases) == pytest.approx((low, high), abs=1e-5)


def test_tangos_interval_mirrors_when_the_two_are_exchanged() -> None:
    low, high = tango_interval(12, 5, 80)
    assert tango_interval(5, 12, 80) == pytest.approx((-high, -low))


def test_without_any_difference_the_bounds_depend_on_the_cases_alone() -> None:
    z = NormalDist().inv_cdf(0.975)
    bound = z * z / (100 + z * z)
    assert tango_interval(0, 0, 100) == pytest.approx((-bound, bound))
    assert tango_interval(0, 0, 0) == (-1.0, 1.0)


def test_bounds_never_leave_minus_one_to_one() -> None:
    assert tango_interval(5, 0, 5)[1] == pytest.approx(1.0)
    assert tango_interval(0, 5, 5)[0] == pytest.approx(-1.0)


def test_at_no_difference_the_score_is_mcnemars() -> None:
    assert tango_score(20, 9, 300, 0.0) == pytest.approx(11 / math.sqrt(29))


def test_tangos_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Exact coverage, summed over all outcomes of 60 cases with 15 % fixes and 10 % regressions."""
    cases, fixed, regressed = 60, 0.15, 0.10
    covered = 0.0
    for fixes in range(31):
        chance = binom.pmf(fixes, cases, fixed)
        for regressions in range(31):
            low, high = tango_interval(fixes, regressions, cases)
            if low <= fixed - regressed <= high:
                covered += chance * binom.pmf(regressions, cases - fixes, regressed / (1 - fixed))
    assert 0.94 < covered < 0.965


def test_mcnemars_exact_p_values() -> None:
    assert mcnemar_exact(1, 7) == pytest.approx(18 / 256)  # 0.070 in Fagerland et al.
    assert mcnemar_exact(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_exact(4, 4) == 1.0
    assert mcnemar_exact(0, 0) == 1.0


def test_the_bootstrap_of_many_scores_agrees_with_the_normal_interval() -> None:
    differences = np.random.default_rng(3).normal(0.05, 0.3, 800)
    low, high = bootstrap_interval(list(differences), seed=1)
    half = 1.959964 * differences.std(ddof=1) / math.sqrt(800)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.001)
    assert bootstrap_interval(list(differences), seed=1) == (low, high)


def test_the_bootstrap_of_few_scores_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for turn in range(400):
        low, high = bootstrap_interval(list(generator.normal(0.1, 1.0, 20)), seed=turn, resamples=1000)
        covered += low <= 0.1 <= high
    assert 0.925 < covered / 400 < 0.98


def test_one_score_bounds_nothing() -> None:
    assert bootstrap_interval([0.4], seed=1) == (-math.inf, math.inf)


def test_a_ratio_of_medians_holds_its_own_between_bounds() -> None:
    ratio, (low, high) = median_ratio([2.0, 4.2, 6.0, 2.1, 4.0], [1.0, 2.0, 3.0, 1.0, 2.0], seed=1)
    assert ratio == pytest.approx(2.0)
    assert low <= 2.0 <= high < 3


def test_cases_for_eighty_percent_power_are_those_of_the_design() -> None:
    assert cases_for_superiority(0.05, 0.20) == 626
    assert cases_for_non_inferiority(0.03, 0.10) == pytest.approx(872, abs=1)


def test_with_that_many_cases_the_power_is_eighty_percent() -> None:
    generator = np.random.default_rng(11)
    cases = cases_for_superiority(0.05, 0.20)
    draws = generator.multinomial(cases, [0.125, 0.075, 0.80], size=1000)
    assert np.mean([tango_interval(b, c, cases)[0] > 0 for b, c, _ in draws]) == pytest.approx(0.80, abs=0.04)
    cases = cases_for_non_inferiority(0.03, 0.10)
    draws = generator.multinomial(cases, [0.05, 0.05, 0.90], size=1000)
    assert np.mean([tango_interval(b, c, cases)[0] > -0.03 for b, c, _ in draws]) == pytest.approx(
        0.80, abs=0.04
    )


def test_where_no_case_differs_the_number_is_what_tangos_bound_needs() -> None:
    cases = cases_for_non_inferiority(0.03, 0.0)
    assert tango_interval(0, 0, cases)[0] > -0.03 >= tango_interval(0, 0, cases - 1)[0]


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """Fixes, regressions and cases of some paired comparison."""
    fixes, regressions = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    return fixes, regressions, fixes + regressions + draw(st.integers(0, 400))


@given(tables())
def test_mcnemars_p_value_is_the_sum_of_all_outcomes_no_likelier_than_this_one(
    table: tuple[int, int, int],
) -> None:
    fixes, regressions, _ = table
    discordant = fixes + regressions
    ways = [math.comb(discordant, count) for count in range(discordant + 1)]
    expected = sum(one for one in ways if one <= ways[fixes]) / 2**discordant
    assert mcnemar_exact(fixes, regressions) == pytest.approx(expected, rel=1e-9)


@given(tables())
@settings(max_examples=150, deadline=None)
def test_tangos_bounds_solve_the_quartic_that_defines_them(table: tuple[int, int, int]) -> None:
    """At a bound the squared distance is z² times the variance under the likeliest share; checked by the derivative of
    the likelihood there, which knows nothing of the closed form that the module uses."""
    fixes, regressions, cases = table
    assume(0 < fixes + regressions < cases)
    z = NormalDist().inv_cdf(0.975)
    for bound in tango_interval(fixes, regressions, cases):
        if abs(bound) > 0.9999:
            continue

        def slope(share: float, bound: float = bound) -> float:
            """Derivative of the log-likelihood by the share of regressions, the difference held at the bound."""
            same = 1 - bound - 2 * share
            fixed = fixes / (share + bound) if fixes else 0.0
            regressed = regressions / share if regressions else 0.0
            return fixed + regressed - 2 * (cases - fixes - regressions) / same

        low, high = max(0.0, -bound) + 1e-12, (1 - bound) / 2 - 1e-12
        share = low if slope(low) < 0 else brentq(slope, low, high, xtol=1e-15)
        variance = (2 * share + bound - bound**2) / cases
        distance = (fixes - regressions) / cases - bound
        assert abs(distance) == pytest.approx(z * math.sqrt(variance), rel=2e-3, abs=1e-6)


@given(tables())
def test_tangos_interval_holds_the_observed_difference_and_narrows_with_alpha(
    table: tuple[int, int, int],
) -> None:
    fixes, regressions, cases = table
    assume(cases > 0)
    low, high = tango_interval(fixes, regressions, cases)
    inner_low, inner_high = tango_interval(fixes, regressions, cases, alpha=0.2)
    observed = (fixes - regressions) / cases
    assert -1 <= low <= inner_low <= observed + 1e-9 and observed - 1e-9 <= inner_high <= high <= 1


@given(tables())
def test_the_interval_excludes_no_difference_exactly_where_mcnemars_statistic_does(
    table: tuple[int, int, int],
) -> None:
    fixes, regressions, cases = table
    assume(fixes + regressions > 0)
    statistic = (fixes - regressions) / math.sqrt(fixes + regressions)
    z = NormalDist().inv_cdf(0.975)
    assume(abs(abs(statistic) - z) > 1e-6)
    low, high = tango_interval(fixes, regressions, cases)
    assert (low > 0, high < 0) == (statistic > z, statistic < -z)


@pytest.mark.parametrize(
    ("cases", "fixed", "regressed"),
    [(50, 0.10, 0.10), (100, 0.03, 0.03), (200, 0.15, 0.05), (626, 0.10, 0.10), (872, 0.02, 0.05)],
)
def test_simulated_intervals_cover_the_truth_nineteen_times_in_twenty(
    cases: int, fixed: float, regressed: float
) -> None:
    generator = np.random.default_rng(20260301)
    draws = generator.multinomial(cases, [fixed, regressed, 1 - fixed - regressed], size=3000)
    kinds, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    covered = sum(
        count
        for (fixes, regressions), count in zip(kinds.tolist(), counts.tolist(), strict=True)
        if tango_interval(fixes, regressions, cases)[0]
        <= fixed - regressed
        <= tango_interval(fixes, regressions, cases)[1]
    )
    assert 0.935 < covered / 3000 < 0.97
