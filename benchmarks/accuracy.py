"""Rules, distances, order statistics and products on this device: error beside float64, time beside a copy.

``python benchmarks/accuracy.py`` prints a line per measurement and writes a table and JSON to ``benchmarks/results``;
``--quick`` is a smoke run. The first thing to ask of a new kind of device: a product in TF32, a sort that treats NaN
another way or a reduction of low precision shows here. What the output folder has and is right is not measured again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _peers import versions
from _timing import label, machine, table
from aggregators import DIM, KEY, Contest, F, N, contests, gaussian_stacks

import byzjax
from byzjax import aggregators as agg
from byzjax import stacked
from byzjax.stacked import order_statistics as order
from byzjax.testing import references as ref

STACKS = 8  # in turn, together larger than caches
SECONDS = 0.3  # of repetitions per line
WIDE = 100  # workers from which on a network with all of its outputs is nothing that a rule asks for
BIG = 10_000_000  # coordinates of the large stack, where memory decides and not the call
MOST_ERROR = {"rule": 2e-3, "distances": 1e-4, "order": 1e-6, "product": 1e-6}
TF32_BITS = 10  # of the mantissa that TF32 keeps of a factor
ROWS = ((1.0, 0.0), (1e-4, 1e4), (1e-4, 1e30), (1e-3, np.inf))  # spread of honest rows, size of hostile ones
OFF = 2.0**-12  # what all coordinates of the product's rows are off a number of 10 bits: TF32 loses exactly this


class Check(NamedTuple):
    """Arguments of a function, and the error of what it gives for them; None where there is no reference."""

    arguments: Callable[[], tuple[Any, ...]]
    error: Callable[[Any], float] | None


class Line(NamedTuple):
    """A measurement.

    Attributes:
      kind: key of `MOST_ERROR`.
      function: of arrays on the device, jitted here.
      timed: gives the arguments that it is timed on, in turn.
      checks: what it is checked on, by name.
    """

    kind: str
    function: Callable[..., Any]
    timed: Callable[[], list[tuple[Any, ...]]]
    checks: dict[str, Check]


def main() -> int:
    """All lines that are not there yet; 1 where an error is larger than it may be."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: small stacks, nothing written")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    where = machine()
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    path = None if out is None else out / f"accuracy-{label(where)}.json"
    report: dict[str, Any] = {"machine": where, "versions": versions({}), "quick": args.quick, "lines": {}}
    if path is not None and path.exists():
        before = json.loads(path.read_text())
        same = before["quick"] == args.quick and before["versions"] == report["versions"]
        report["lines"] = {name: found for name, found in before["lines"].items() if same and found["ok"]}
    wanted = {name: line for name, line in lines(args.quick).items() if name not in report["lines"]}
    for name, found in measured(wanted):
        report["lines"][name] = found
        print(json.dumps({"line": name, **found}), flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1) + "\n")
    print(render(report))
    if path is not None:
        path.with_suffix(".md").write_text(render(report))
    wrong = [name for name, found in report["lines"].items() if found["ok"] is False]
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    return 1 if wrong else 0


def lines(quick: bool) -> dict[str, Line]:
    """What is measured, by name."""
    dim = 2_000 if quick else DIM
    found = {"copy": Line("copy", jnp.copy, lambda: ordinary(dim), {})}
    few = 1_000 if quick else DIM
    found |= products(dim) | distances(dim, quick) | order_statistics(20, few) | rules(dim)
    if quick:
        return found | order_statistics(200, few)
    # Last, what may take long to compile: networks of hundreds and thousands of comparators.
    return found | large() | order_statistics(256, 20_000) | order_statistics(64, DIM) | order_statistics(128, 20_000)


def products(dim: int) -> dict[str, Line]:
    """The Gram matrix of rows all of whose coordinates TF32 rounds the same way, so that its errors add up.

    As byzjax multiplies, and as JAX does by default, which is not held to any error: it says what the device does
    where nobody asks, and what models are trained with.
    """
    rng = np.random.default_rng(2)
    signs, lengths = rng.choice([-1.0, 1.0], dim), 2.0 ** rng.integers(-3, 4, N)
    x = (lengths[:, None] * signs * (1 + OFF)).astype(np.float32)

    def error(gram: Any) -> float:
        expected = x.astype(np.float64) @ x.astype(np.float64).T
        return float(np.abs(np.asarray(gram, np.float64) / expected - 1).max())

    checks = {"rows that TF32 rounds alike": Check(lambda: (jnp.asarray(x),), error)}
    return {
        "gram matrix, as in byzjax": Line("product", lambda x: stacked.matmul(x, x.T), lambda: ordinary(dim), checks),
        "gram matrix, default precision": Line("default", lambda x: jnp.matmul(x, x.T), lambda: ordinary(dim), checks),
    }


def in_tf32() -> float:
    """The relative error of the same Gram matrix with factors rounded to TF32, by emulation."""
    mantissa, exponent = np.frexp(1 + OFF)
    rounded = np.ldexp(np.round(mantissa * 2 ** (TF32_BITS + 1)) / 2 ** (TF32_BITS + 1), exponent)
    return float(abs((rounded / (1 + OFF)) ** 2 - 1))


def distances(dim: int, quick: bool) -> dict[str, Line]:
    """Squared distances of honest rows, near-equal ones beside hostile rows among them."""
    shapes = ((N, dim),) if quick else ((N, dim), (64, dim), (256, 20_000))
    return {
        f"distances, n = {n}, d = {d:,}": Line(
            "distances",
            stacked.distances,
            lambda n=n, d=d: [(jnp.asarray(rows(n, d, 1.0, 0.0)[0]),)] * STACKS,
            {f"spread {spread:g}, hostile {size:g}": distance_check(n, d, spread, size) for spread, size in ROWS},
        )
        for n, d in shapes
    }


def distance_check(n: int, d: int, spread: float, hostile: float) -> Check:
    """The largest relative error among honest rows."""

    def error(squared: Any) -> float:
        x, honest = rows(n, d, spread, hostile)
        wide = x[honest].astype(np.float64)
        wide -= wide.mean(0)  # now products lose no digit that counts, and are much faster than differences
        sizes = (wide**2).sum(1)
        expected = sizes[:, None] + sizes - 2 * wide @ wide.T
        apart = ~np.eye(len(wide), dtype=bool)
        got = np.asarray(squared, np.float64)[np.ix_(honest, honest)]
        return float(np.abs(got[apart] / expected[apart] - 1).max())

    return Check(lambda: (jnp.asarray(rows(n, d, spread, hostile)[0]),), error)


def rows(n: int, d: int, spread: float, hostile: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows around a common part, every seventh of them hostile and so large; and which are honest."""
    rng = np.random.default_rng(3)
    x = (rng.normal(size=d) + spread * rng.normal(size=(n, d))).astype(np.float32)
    bad = (np.arange(n) % 7 == 2) & (hostile > 0)
    x[bad] = hostile * rng.choice([-1.0, 1.0], size=(bad.sum(), 1))
    if np.isinf(hostile):
        x[2, 0] = np.nan
    return x, np.flatnonzero(~bad)


def order_statistics(n: int, d: int) -> dict[str, Line]:
    """Sorting networks or bisection, with ties, infinities and NaN among the numbers."""
    x = np.random.default_rng(4).normal(size=(n, d)).astype(np.float32)
    x[: n // 4] = np.round(x[: n // 4])  # ties
    hostile = x.copy()
    hostile[0], hostile[1], hostile[2] = np.nan, np.inf, -np.inf
    known = np.sort(np.where(np.isnan(hostile), np.inf, hostile).astype(np.float64), axis=0)
    f, middle = n // 5, n // 2

    def line(function: Callable[..., Any], x: np.ndarray, expected: np.ndarray) -> Line:
        def error(got: Any) -> float:
            wide = np.asarray(got, np.float64)
            differ = ~(wide == expected)  # infinities may be equal, and NaN never is
            off = np.abs(wide[differ] - expected[differ]) / np.maximum(1.0, np.abs(expected[differ]))
            return float(off.max(initial=0.0))

        check = Check(lambda: (jnp.asarray(x),), error)
        return Line("order", function, lambda: [check.arguments()] * STACKS, {"": check})

    smallest = np.sort(x.astype(np.float64), axis=0)[:f].mean(0)
    name = f"n = {n}, d = {d:,}"
    found = {
        f"sort, {name}": line(lambda x: jnp.stack(order.sort_workers(x)), hostile, known),
        f"middle, {name}": line(lambda x: order.order_statistic(x, middle), hostile, known[middle]),
        f"mean of the middle, {name}": line(
            lambda x: order.rank_sum(x, f, n - f) / (n - 2 * f), hostile, known[f : n - f].mean(0)
        ),
        f"mean of the smallest, {name}": line(lambda x: order.lowest_sum(x, x, f) / f, x, smallest),
    }
    if WIDE <= n <= order.MAX_NETWORK:
        del found[f"sort, {name}"]
    return found


def rules(dim: int) -> dict[str, Line]:
    """Every rule, on Gaussian rows with inner-product attackers and on near-equal rows beside rows of 1e4."""
    chosen = dict(contests({}))
    for name, rule, reference in (
        ("nnm + geometric_median", agg.geometric_median(8), lambda x: ref.geometric_median(x, num_iters=8)),
        ("nnm + krum", agg.krum(F), lambda x: ref.krum(x, F)),
        ("nnm + median", agg.median(), ref.median),
    ):
        chained = byzjax.chain(agg.nnm(F), rule)
        chosen[name] = Contest("mixed", chained, lambda x, then=reference: then(ref.nnm(x, F)))
    stacks = {"ordinary": ordinary_stack(dim), "hostile": hostile_stack(dim)}
    return {name: rule_line(contest, stacks) for name, contest in chosen.items()}


def rule_line(contest: Contest, stacks: dict[str, np.ndarray]) -> Line:
    """A rule's update in its first round."""
    dim = stacks["ordinary"].shape[1]

    def update(x: jax.Array, state: Any, params: jax.Array, key: jax.Array) -> jax.Array:
        return contest.rule.update(x, state, params, key=key)[0]

    def arguments(x: Any) -> tuple[Any, ...]:
        params = jnp.zeros(dim)
        return jnp.asarray(x), contest.rule.init(params), params, KEY

    def check(x: np.ndarray) -> Check:
        return Check(
            lambda: arguments(x), None if contest.reference is None else lambda got: rule_error(got, contest, x)
        )

    return Line(
        "rule",
        update,
        lambda: [arguments(x) for (x,) in ordinary(dim)],
        {kind: check(x) for kind, x in stacks.items()},
    )


def rule_error(got: Any, contest: Contest, x: np.ndarray) -> float:
    """In units of the median row's distance from the coordinate-wise median, or a thousandth of the answer's length.

    The length, since an answer of length 1 cannot be nearer than the last digit of float32.
    """
    wide = x.astype(np.float64)
    unit = np.median(np.linalg.norm(wide - np.median(wide, axis=0), axis=1))
    right = expected(contest, wide)
    off = np.linalg.norm(np.asarray(got, np.float64) - right, axis=-1).max()
    return float(off / max(unit, 1e-3 * np.linalg.norm(right, axis=-1).max()))


def expected(contest: Contest, wide: np.ndarray) -> np.ndarray:
    """In float64. Rules that turn with the rows are computed in their span, for their references may be d × d."""
    assert contest.reference is not None
    if contest.kind not in ("weights", "subsets"):
        return contest.reference(wide)
    basis, triangle = np.linalg.qr(wide.T)
    return contest.reference(np.ascontiguousarray(triangle.T)) @ basis.T


def large() -> dict[str, Line]:
    """Some rules on a stack of 800 MB, where reading it is all that counts; timed alone."""
    chosen = {
        "mean": agg.mean(),
        "median": agg.median(),
        "trimmed_mean": agg.trimmed_mean(F),
        "krum": agg.krum(F),
        "geometric_median": agg.geometric_median(),
        "nnm + geometric_median": byzjax.chain(agg.nnm(F), agg.geometric_median()),
    }

    @functools.cache
    def drawn() -> list[tuple[Any, ...]]:
        return [(jax.random.normal(KEY, (N, BIG)),)]

    functions = {name: lambda x, rule=rule: byzjax.aggregate(rule, x) for name, rule in chosen.items()}
    everything = {"copy": jnp.copy, **functions, "distances": stacked.distances}
    return {f"{name}, d = {BIG:,}": Line("large", function, drawn, {}) for name, function in everything.items()}


@functools.cache
def ordinary(dim: int) -> list[tuple[Any, ...]]:
    """The stacks that are timed."""
    return [(jnp.asarray(x),) for x in gaussian_stacks(dim, STACKS)]


def ordinary_stack(dim: int) -> np.ndarray:
    """The first of them."""
    return next(gaussian_stacks(dim, 1))


def hostile_stack(dim: int) -> np.ndarray:
    """Near-equal honest rows beside rows of 1e4."""
    rng = np.random.default_rng(1)
    x = (100 * rng.normal(size=dim) + 0.01 * rng.normal(size=(N, dim))).astype(np.float32)
    x[[2, 7, 11]] = 1e4 * rng.choice([-1.0, 1.0], size=(F, 1))
    return x


def measured(wanted: dict[str, Line]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines group by group: each is compiled on all cores, then measured line by line while nothing else runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = list(wanted)
    for first in range(0, len(names), cores):
        group = names[first : first + cores]
        with concurrent.futures.ThreadPoolExecutor(cores) as pool:
            made = {name: pool.submit(compiled, wanted[name]) for name in group}
        for name in group:
            try:
                yield name, measure(wanted[name], *made.pop(name).result())
            except Exception as error:  # one rule that a device refuses must not hide the others
                yield name, {"kind": wanted[name].kind, "ok": False, "why": f"{type(error).__name__}: {error}"[:300]}


def compiled(line: Line) -> tuple[Callable[..., Any], float]:
    """The function for the shapes of its arguments, and seconds of compilation."""
    arguments = line.timed()[0]
    start = time.perf_counter()
    return jax.jit(line.function).lower(*arguments).compile(), time.perf_counter() - start


def measure(line: Line, function: Callable[..., Any], compiling: float) -> dict[str, Any]:
    """Errors and time of a line."""
    inputs = line.timed()
    results = {name: jax.block_until_ready(function(*check.arguments())) for name, check in line.checks.items()}
    errors = {name: check.error(results[name]) for name, check in line.checks.items() if check.error is not None}
    finite = all(bool(jnp.isfinite(result).all()) for name, result in results.items() if name not in errors)
    most = MOST_ERROR.get(line.kind, math.inf)
    return {
        "kind": line.kind,
        "ms": float(f"{1e3 * seconds_per_call(function, inputs):.4g}"),
        "errors": {name: float(f"{error:.2g}") for name, error in errors.items()},
        "ok": bool(finite and all(error <= most for error in errors.values())),  # NaN is not
        "compile_s": round(compiling, 2),
    }


def seconds_per_call(function: Callable[..., Any], inputs: list[tuple[Any, ...]]) -> float:
    """The median over turns through all inputs, which are all handed over before the last is waited for."""
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < SECONDS and len(seconds) < 50):
        start = time.perf_counter()
        jax.block_until_ready([function(*arguments) for arguments in inputs])
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2] / len(inputs)


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    m, found = report["machine"], report["lines"]
    copies = {"large": found.get(f"copy, d = {BIG:,}", {}).get("ms"), "rule": found.get("copy", {}).get("ms")}

    def row(name: str, line: dict[str, Any]) -> tuple[Any, ...]:
        if "why" in line:
            return name, "–", "–", line["why"][:60], "NO"
        copy = copies.get(line["kind"])
        in_copies = f"{line['ms'] / copy:.2f}" if copy else "–"
        errors = ", ".join(" ".join(filter(None, (what, f"{e:.0e}"))) for what, e in line["errors"].items()) or "–"
        return name, f"{line['ms']:.4g}", in_copies, errors, "yes" if line["ok"] else "NO"

    parts = [
        "# Rules, distances and order statistics on this device",
        f"{m['cores']} cores, {m['cpu']}, on {m['device']}; load of the machine before the run: {m['load_before']}. "
        f"n = {N}, f = {F} for rules; float32. *error*: of rules a distance from float64 in units of the median row's "
        "distance from the coordinate-wise median, or of a thousandth of the answer's length where that is more; "
        "elsewhere relative. *ok*: below "
        + ", ".join(f"{most:g} ({kind})" for kind, most in MOST_ERROR.items())
        + f"; finite where there is no reference. In TF32 the gram matrix would be off by {in_tf32():.1e}. Calls are "
        "handed over without waiting for the one before.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
        table(("what", "ms", "copies", "error", "ok"), [row(name, line) for name, line in found.items()]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
