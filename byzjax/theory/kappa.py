"""Robustness coefficients κ of Definition 1 (appendix C of the Byz-NSGDM paper).

A rule is (δ, κ)-robust if, whatever the at most B = f hostile rows hold,
``‖ARAgg(v_1, …, v_n) − v̄_G‖ ≤ (κ/G) Σ_{i ∈ G} ‖v_i − v̄_G‖``. The bound is linear; the κ of Allouah et al. bounds
squares.
"""

from __future__ import annotations

import math

from byzjax.checks import check_integer, check_number

_ROUNDED = 1e-6  # relative: a leverage of equal deviations may be one rounding below 1


def kappa(rule: str, *, num_workers: int, f: int, dim: int = 1) -> float:
    """κ of a rule without pre-aggregation.

    ``2 (1 + f/(n − 2f))`` for the geometric median (Proposition 1), √d times that for the coordinate-wise median
    (Proposition 2): upper bounds, since ``1 + f/(n − 2f)`` holds for both, in every dimension. The geometric median
    here is the exact minimiser. As it is run, smoothed, it satisfies Definition 1 for no κ: next to equal honest rows,
    whose deviation is 0, far liars leave it off, after any number of steps.

    Args:
      rule: "geometric_median" (or "rfa") or "median".
      num_workers: n.
      f: number of Byzantine workers, 2f < n.
      dim: d, for the median.

    Raises:
      ValueError: an argument that is no such number, 2f ≥ n, or a rule for which the paper gives no linear κ.

    >>> kappa("geometric_median", num_workers=20, f=3)
    2.4285714285714284
    """
    num_workers, f = _check_counts(num_workers, f, "kappa")
    dim = check_integer(dim, "dim", "kappa", least=1)
    base = 2 * (1 + f / (num_workers - 2 * f))
    if rule in ("geometric_median", "rfa"):
        return base
    if rule == "median":
        return base * math.sqrt(dim)
    raise ValueError(f"kappa: no linear coefficient is published for rule = {rule!r}; known: geometric_median, median.")


def kappa_after_nnm(kappa: float, *, num_workers: int, f: int, leverage: float) -> float:
    """κ' = (8κ + 4) α C of a (δ, κ)-robust rule after nearest-neighbour mixing (Lemma 12), with α = f/(n − f).

    Args:
      kappa: κ of the rule.
      num_workers: n.
      f: number of Byzantine workers, 2f < n.
      leverage: C of Assumption 5, the largest honest deviation over the mean one: 1 ≤ C ≤ n − f.

    Raises:
      ValueError: a number of workers that is none, 2f ≥ n, κ < 0, or C outside [1, n − f].

    >>> round(kappa_after_nnm(2.0, num_workers=20, f=4, leverage=2.0), 6)
    10.0
    """
    num_workers, f = _check_counts(num_workers, f, "kappa_after_nnm")
    check_number(kappa, "kappa", "kappa_after_nnm", least=0)
    check_number(leverage, "leverage", "kappa_after_nnm")
    if not 1 - _ROUNDED <= leverage <= (num_workers - f) * (1 + _ROUNDED):
        raise ValueError(
            f"kappa_after_nnm: leverage = {leverage!r} must lie between 1 and n − f = {num_workers - f}; it is the "
            "largest honest deviation over the mean one."
        )
    return (8 * kappa + 4) * f / (num_workers - f) * leverage


def kappa_squared(rule: str, *, num_workers: int, f: int) -> float:
    """κ of (f, κ)-robustness: ``‖ARAgg(v) − v̄_S‖² ≤ (κ/|S|) Σ_{i ∈ S} ‖v_i − v̄_S‖²`` for every S of n − f rows.

    With r = f/(n − 2f): ``6 r (1 + r)`` for the trimmed mean, ``6 (1 + r)`` for Krum, ``4 (1 + r)²`` for the geometric
    median and the coordinate-wise median, ``4 f/(n − f) (1 + r)²`` for SMEA. No dimension enters. A linear κ implies
    the squared κ², by Jensen's inequality; a squared κ over G = |S| rows implies the linear √(G κ), since one row may
    hold all of the deviation.

    Args:
      rule: "trimmed_mean", "krum", "geometric_median" (or "rfa"; the exact minimiser), "median" or "smea".
      num_workers: n.
      f: number of Byzantine workers, 2f < n.

    Raises:
      ValueError: an argument that is no such number, 2f ≥ n, or a rule for which no such κ is published.

    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan. Fixing by mixing: a recipe for optimal Byzantine ML under
    heterogeneity. AISTATS 2023. Allouah, Guerraoui, Gupta, Pinot, Stephan. On the privacy-robustness-utility trilemma
    in distributed learning. ICML 2023 (SMEA).

    >>> kappa_squared("krum", num_workers=20, f=4)
    8.0
    """
    num_workers, f = _check_counts(num_workers, f, "kappa_squared")
    ratio = f / (num_workers - 2 * f)
    known = {
        "trimmed_mean": 6 * ratio * (1 + ratio),
        "krum": 6 * (1 + ratio),
        "geometric_median": 4 * (1 + ratio) ** 2,
        "rfa": 4 * (1 + ratio) ** 2,
        "median": 4 * (1 + ratio) ** 2,
        "smea": 4 * f / (num_workers - f) * (1 + ratio) ** 2,
    }
    if rule not in known:
        raise ValueError(f"kappa_squared: no coefficient is published for rule = {rule!r}; known: {', '.join(known)}.")
    return known[rule]


def _check_counts(num_workers: int, f: int, where: str) -> tuple[int, int]:
    num_workers = check_integer(num_workers, "num_workers", where, least=1)
    f = check_integer(f, "f", where, least=0)
    if 2 * f >= num_workers:
        raise ValueError(f"{where}: f = {f} of n = {num_workers} must satisfy 0 ≤ 2f < n.")
    return num_workers, f
