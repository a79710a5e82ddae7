"""Float64 NumPy references of the rules with a memory, over several rounds, see `references`.

Each takes what was sent, ``[T, n, d]``, the parameters of each round, ``[T, d]``, and the options of its factory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from byzjax.testing.norms import clipping, cosine_distances


def adaptive_clipping(
    sent: np.ndarray,
    params: np.ndarray,
    initial_norm: float = 0.1,
    quantile: float = 0.5,
    learning_rate: float = 0.2,
) -> list[np.ndarray]:
    """Clipping to a bound that follows a quantile of the norms."""
    del params
    answers, bound = [], initial_norm
    for x in sent:
        answers.append(clipping(x, bound))
        share = (np.linalg.norm(x, axis=1) <= bound).mean()
        bound = np.clip(bound * np.exp(-learning_rate * (share - quantile)), 2.0**-100, 2.0**100)
    return answers


def foolsgold(sent: np.ndarray, params: np.ndarray, num_workers: int, reduce: str = "mean") -> list[np.ndarray]:
    """Rows weighted by how unlike their sum so far is to the sum that is most like it."""
    del params
    return [foolsgold_weights(sent[: t + 1].sum(0), num_workers, reduce) @ x for t, x in enumerate(sent)]


def foolsgold_weights(total: np.ndarray, num_workers: int, reduce: str) -> np.ndarray:
    """The weights of the rows, none to those that are copies of each other, but for rounding."""
    cosine = 1.0 - cosine_distances(total)
    np.fill_diagonal(cosine, 0.0)
    likest = np.maximum(cosine.max(1), 0.0)
    pardoned = cosine.copy()
    for i in range(num_workers):
        for j in range(num_workers):
            if likest[j] > likest[i]:
                pardoned[i, j] *= likest[i] / likest[j]
    unlike = np.clip(1.0 - np.maximum(pardoned.max(1), 0.0), 0.0, 1.0)
    unlike[unlike < 1e-15] = 0.0
    unlike /= unlike.max() or 1.0
    with np.errstate(divide="ignore"):
        alpha = np.clip(np.log(unlike / np.maximum(1.0 - unlike, 1e-300)) + 0.5, 0.0, 1.0)
    return alpha / ((alpha.sum() or 1.0) if reduce == "mean" else 1.0)


def byzantine_sgd(
    sent: np.ndarray,
    params: np.ndarray,
    num_workers: int,
    deviation: float,
    diameter: float,
    num_rounds: int,
    failure: float = 0.1,
) -> list[np.ndarray]:
    """The mean of those whose gradients, sums, and sums along the path have stayed near a majority's."""
    reach = 4 * deviation * np.sqrt(num_rounds * np.log(16 * num_workers * num_rounds / failure))
    along, good, answers = np.zeros(num_workers), np.ones(num_workers, bool), []
    for t, x in enumerate(sent):
        along += x @ (params[t] - params[0])
        good &= np.abs(along - np.sort(along)[(num_workers - 1) // 2]) <= diameter * reach
        good &= _from_the_majority(sent[: t + 1].sum(0))[0] <= 2 * reach
        good &= _from_the_majority(x)[0] <= 4 * deviation
        answers.append(x[good].mean(0) if good.any() else np.zeros(x.shape[1]))
    return answers


def safeguard(
    sent: np.ndarray,
    params: np.ndarray,
    num_workers: int,
    windows: tuple[int, int] = (100, 600),
    thresholds: tuple[float, float] | str = "auto",
    multiplier: float = 1.5,
    min_threshold: float = 0.0,
    reset: bool = False,
) -> list[np.ndarray]:
    """The mean of those whose windowed sums have stayed near a majority's until the last round."""
    del params
    totals = [np.zeros(sent.shape[1:]), np.zeros(sent.shape[1:])]
    good, answers = np.ones(num_workers, bool), []
    for t, x in enumerate(sent):
        before = good | (reset and t % windows[1] == 0)
        answers.append(x[before].mean(0) if before.any() else np.zeros(x.shape[1]))
        good = before.copy()
        for k, window in enumerate(windows):
            totals[k] = (totals[k] if t % window else 0.0) + x / max(before.sum(), 1)
            away, reach = _from_the_majority(totals[k], before)
            limit = multiplier * max(reach, min_threshold) if isinstance(thresholds, str) else 2 * thresholds[k]
            good &= away <= limit
    return answers


def _from_the_majority(x: np.ndarray, among: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """The distances from the row with the nearest majority, and how far that is."""
    away = np.linalg.norm(x[:, None] - x[None], axis=-1)
    reach = np.sort(away, axis=1)[:, len(x) // 2]
    centre = int(np.argmin(reach if among is None else np.where(among, reach, np.inf)))
    return away[centre], float(reach[centre])


def centered_clipping(
    sent: np.ndarray,
    params: np.ndarray,
    tau: float = 10.0,
    num_iters: int = 1,
    scaling: str = "none",
    beta: float = 0.0,
) -> list[np.ndarray]:
    """Steps of the mean clipped difference, from the last aggregate."""
    radius = tau / {"none": 1, "linear": 1 - beta, "sqrt": np.sqrt(1 - beta)}[scaling]
    answers, v = [], np.zeros(params.shape[1])
    for x in sent:
        for _ in range(num_iters):
            v = v + clipping(x - v, radius).mean(0)
        answers.append(v)
    return answers


def auror(
    sent: np.ndarray, params: np.ndarray, gap: float = 0.002, share: float = 0.5, num_rounds: int = 10
) -> list[np.ndarray]:
    """The mean of those who are seldom in the smaller part of an indicative coordinate's best split in two."""
    del params
    answers, indicative = [], np.zeros(sent.shape[2], bool)
    for t, x in enumerate(sent):
        apart, fewer = _split_in_two(x)
        indicative = apart >= gap if t < num_rounds else indicative
        good = (fewer & indicative).sum(1) <= share * indicative.sum()
        answers.append(x[good if good.any() else slice(None)].mean(0))
    return answers


def _split_in_two(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every column, how far apart the means of the best two parts are, and who is in the smaller part.

    Of equal cuts the lower one counts.
    """
    n, d = x.shape
    ordered = np.sort(x, axis=0)
    within = np.array([k * ordered[:k].var(0) + (n - k) * ordered[k:].var(0) for k in range(1, n)])
    cuts = 1 + np.argmax(within <= within.min(0) + 1e-12 * n * ordered.var(0), axis=0)
    apart, fewer = np.zeros(d), np.zeros((n, d), bool)
    for k, cut in enumerate(cuts):
        apart[k] = ordered[cut:, k].mean() - ordered[:cut, k].mean()
        below = x[:, k] <= ordered[cut - 1, k]
        fewer[:, k] = below if 2 * cut < n else ~below & (2 * cut > n)
    return apart, fewer


def flanders(
    sent: np.ndarray,
    params: np.ndarray,
    num_workers: int,
    f: int,
    window: int = 10,
    start: int = 2,
    row_penalty: float = 1.0,
    column_penalty: float = 1.0,
    num_iters: int = 10,
) -> list[np.ndarray]:
    """The mean of the n − f rows nearest to what a matrix autoregression of the window predicts."""
    del params
    history, answers = np.zeros((window, *sent.shape[1:])), []
    for t, x in enumerate(sent):
        errors = np.linalg.norm(x - predicted(history, row_penalty, column_penalty, num_iters), axis=1)
        keep = np.argsort(errors, kind="stable")[: num_workers - f] if t >= start else np.arange(num_workers)
        answers.append(x[keep].mean(0))
        known = np.where(np.isin(np.arange(num_workers), keep)[:, None], x, answers[-1])
        history = np.concatenate([history[1:], known[None]])
    return answers


def predicted(history: np.ndarray, alpha: float = 1.0, beta: float = 1.0, num_iters: int = 10) -> np.ndarray:
    """``A X_N B`` with B as it stands in the paper."""
    count, n, d = history.shape
    x = history / max(np.abs(history).max(), 1e-300)
    b = np.eye(d)
    a = np.eye(n)
    for _ in range(num_iters):
        right = [x[t - 1] @ b for t in range(1, count)]
        a = sum(x[t + 1] @ r.T for t, r in enumerate(right)) @ np.linalg.inv(
            sum(r @ r.T for r in right) + alpha * np.eye(n)
        )
        left = [a @ x[t - 1] for t in range(1, count)]
        b = np.linalg.inv(sum(z.T @ z for z in left) + beta * np.eye(d)) @ sum(
            z.T @ x[t + 1] for t, z in enumerate(left)
        )
    return a @ history[-1] @ b


HISTORIES: dict[str, Callable[..., list[np.ndarray]]] = {
    rule.__name__: rule
    for rule in (adaptive_clipping, foolsgold, byzantine_sgd, safeguard, centered_clipping, auror, flanders)
}
