"""Every rule, alone and after NNM: time beside a copy of the stack, ByzFL 0.0.11 and ByzPy 0.1.4; and its error.

``python benchmarks/aggregators.py`` prints a table and JSON, and writes them with a figure to ``benchmarks/results``;
``--quick`` is a smoke run. README.md says how to install the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _peers import byzpy_rule, load, versions
from _timing import QUICK, Arm, Fixed, Timing, interleaved, label, machine, table

import byzjax
from byzjax import aggregators as agg
from byzjax.testing import references as ref

N, F = 20, 3
DIM = 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10  # the MNIST MLP
KEY = jax.random.key(0)
SLOW = 10.0  # seconds per call from which on an arm is timed once, not in every repetition
FAST = 0.1  # seconds per call up to which an arm goes through all stacks, which then leave the caches
OFTEN = 5  # turns of quick arms per repetition
PATIENCE = 150  # seconds after which a call is given up
NNM_OF_BYZPY = "pre_aggregators.nnm.NearestNeighborMixing"
RADIUS = 300.0  # of centred clipping: about the norm of a row
REACH = 500.0  # of simple clustering: the distance of two honest rows and a little more


class Contest(NamedTuple):
    """One rule in three implementations, and what it should give.

    Attributes:
      kind: how it works, which decides the goal: coordinates, weights, subsets, stateful or mixing.
      rule: byzjax's.
      reference: ``[n, d] -> [d]`` in float64 with plain loops; None where the result depends on a key.
      byzfl, byzpy: ``() -> (tensor [n, d] -> tensor)``.
      peer_reference: what the peers compute, where that is not the reference.
    """

    kind: str
    rule: Any
    reference: Callable[[np.ndarray], np.ndarray] | None
    byzfl: Callable[[], Callable] | None = None
    byzpy: Callable[[], Callable] | None = None
    peer_reference: Callable[[np.ndarray], np.ndarray] | None = None


def contests(peers: dict[str, Any]) -> dict[str, Contest]:
    fl = peers.get("byzfl")

    def py(path: str, *args: Any, **options: Any) -> Callable[[], Callable]:
        return functools.partial(byzpy_rule, path, *args, **options)

    def of(function: Callable, **options: Any) -> Callable[[np.ndarray], np.ndarray]:
        return functools.partial(function, **options)

    theirs = {"neighbors": "n-f-1"}  # Krum's convention in both peers
    return {
        "mean": Contest("coordinates", agg.mean(), ref.mean, lambda: fl.Average()),
        "median": Contest(
            "coordinates", agg.median(), ref.median, lambda: fl.Median(),
            py("aggregators.coordinate_wise.median.CoordinateWiseMedian"), of(ref.median, even="lower"),
        ),
        "trimmed_mean": Contest(
            "coordinates", agg.trimmed_mean(F), of(ref.trimmed_mean, f=F), lambda: fl.TrMean(F),
            py("aggregators.coordinate_wise.trimmed_mean.CoordinateWiseTrimmedMean", F),
        ),
        "meamed": Contest(
            "coordinates", agg.meamed(F), of(ref.meamed, f=F), lambda: fl.Meamed(F),
            py("aggregators.coordinate_wise.mean_of_medians.MeanOfMedians", F),
        ),
        "sign_majority": Contest("coordinates", agg.sign_majority(), ref.sign_majority),
        "krum": Contest(
            "weights", agg.krum(F), of(ref.krum, f=F), lambda: fl.Krum(F),
            py("aggregators.geometric_wise.krum.Krum", F), of(ref.krum, f=F, **theirs),
        ),
        "multi_krum": Contest(
            "weights", agg.multi_krum(F), of(ref.multi_krum, f=F), lambda: fl.MultiKrum(F),
            py("aggregators.geometric_wise.krum.MultiKrum", F, N - F), of(ref.multi_krum, f=F, **theirs),
        ),
        "bulyan": Contest("mixed", agg.bulyan(F), of(ref.bulyan, f=F)),
        "geometric_median": Contest(
            "weights", agg.geometric_median(8), of(ref.geometric_median, num_iters=8),
            lambda: fl.GeometricMedian(nu=0.1, T=8),
        ),
        "geometric_median, to 1e-6": Contest(
            "weights", agg.geometric_median(256, 1e-12, "median", 1e-6),
            of(ref.geometric_median, num_iters=256, smoothing=1e-12, init="median"), None,
            py("aggregators.geometric_wise.geometric_median.GeometricMedian"),
        ),
        "auto_gm": Contest("weights", agg.auto_gm(), None),
        "centered_clipping": Contest(
            "weights", agg.centered_clipping(tau=RADIUS, start="zero"),
            of(ref.centered_clipping, tau=RADIUS, start="zero"),
            # Theirs keeps its state between calls: a new one for each call starts at zero, too.
            lambda: lambda x: fl.CenteredClipping(tau=RADIUS)(x),
            py("aggregators.norm_wise.center_clipping.CenteredClipping", c_tau=RADIUS, M=1, init="zero"),
        ),
        "mda": Contest(
            "subsets", agg.mda(F), of(ref.mda, f=F), lambda: fl.MDA(F),
            py("aggregators.geometric_wise.minimum_diameter_average.MinimumDiameterAveraging", F),
        ),
        "smea": Contest(
            "subsets", agg.smea(F), of(ref.smea, f=F), lambda: fl.SMEA(F),
            py("aggregators.geometric_wise.smea.SMEA", F),
        ),
        "monna": Contest(
            "weights", agg.monna(F), of(ref.monna, f=F), lambda: fl.MoNNA(F),
            py("aggregators.geometric_wise.monna.MoNNA", F),
        ),
        "caf": Contest(
            "weights", agg.caf(F), of(ref.caf, f=F), lambda: fl.CAF(F), py("aggregators.norm_wise.caf.CAF", F)
        ),
        "dnc": Contest("mixed", agg.dnc(F), None),
        "cge": Contest(
            "weights", agg.cge(F), of(ref.cge, f=F), None,
            py("aggregators.norm_wise.comparative_gradient_elimination.ComparativeGradientElimination", F),
        ),
        "norm_clipping": Contest("weights", agg.norm_clipping(RADIUS), of(ref.norm_clipping, max_norm=RADIUS)),
        "clipped_clustering": Contest("mixed", agg.clipped_clustering(), ref.clipped_clustering),
        "signguard": Contest("mixed", agg.signguard(), ref.signguard),
        "flame": Contest("mixed", agg.flame(), ref.flame),
        "simple_clustering": Contest(
            "weights", agg.simple_clustering(REACH), of(ref.simple_clustering, eps=REACH)
        ),
        "deepsight": Contest("mixed", agg.deepsight(), ref.deepsight),
        "lasa": Contest("mixed", agg.lasa(), ref.lasa),
        "auror": Contest("mixed", agg.auror(), ref.auror),
        "fltrust": Contest("mixed", agg.fltrust(), ref.fltrust),
        "foolsgold": Contest("mixed", agg.foolsgold(N), None),  # of near-equal rows, no precision tells who is unlike
        "byzantine_sgd": Contest(
            "mixed", agg.byzantine_sgd(N, deviation=RADIUS, diameter=1.0, num_rounds=1000),
            of(ref.byzantine_sgd, num_workers=N, deviation=RADIUS, diameter=1.0, num_rounds=1000),
        ),
        "fldetector": Contest("mixed", agg.fldetector(N), of(ref.fldetector, num_workers=N)),
        "flanders": Contest("mixed", agg.flanders(N, F), of(ref.flanders, num_workers=N, f=F)),
        "safeguard": Contest("mixed", agg.safeguard(N), of(ref.safeguard, num_workers=N)),
        "nnm": Contest(
            "mixing", agg.nnm(F), of(ref.nnm, f=F), lambda: fl.NNM(F), py(NNM_OF_BYZPY, F),
        ),
        "bucketing": Contest(
            "mixing", agg.bucketing(2), None, lambda: fl.Bucketing(2), py("pre_aggregators.bucketing.Bucketing", 2)
        ),
        "clipping": Contest(
            "mixing", agg.clipping(RADIUS), of(ref.clipping, max_norm=RADIUS), lambda: fl.Clipping(RADIUS),
            py("pre_aggregators.clipping.Clipping", RADIUS),
        ),
        "arc": Contest(
            "mixing", agg.arc(F), of(ref.arc, f=F), lambda: fl.ARC(F), py("pre_aggregators.arc.ARC", F)
        ),
        "finite_guard": Contest("mixing", agg.finite_guard(), ref.finite_guard),
        "adaptive_clipping": Contest(
            "mixing", agg.adaptive_clipping(RADIUS), of(ref.clipping, max_norm=RADIUS)
        ),
        "dp_clipping": Contest("mixing", agg.dp_clipping(RADIUS), None),
    }  # fmt: skip


def after_nnm(contest: Contest, peers: dict[str, Any]) -> Contest:
    """The same rule on rows mixed by NNM, in all implementations."""

    def chained(first: Callable[[], Callable], then: Callable[[], Callable] | None) -> Callable[[], Callable] | None:
        def make() -> Callable:
            assert then is not None
            mixing, rule = first(), then()
            return lambda x: rule(mixing(x))

        return None if then is None else make

    def referenced(reference: Callable | None) -> Callable | None:
        return None if reference is None else lambda x: reference(ref.nnm(x, F))

    long = contest.kind == "subsets"  # minutes per call, which they have been given once
    return Contest(
        contest.kind,
        byzjax.chain(agg.nnm(F), contest.rule),
        referenced(contest.reference),
        None if long else chained(lambda: peers["byzfl"].NNM(F), contest.byzfl),
        None if long else chained(functools.partial(byzpy_rule, NNM_OF_BYZPY, F), contest.byzpy),
        referenced(contest.peer_reference),
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: small d, two repetitions, nothing written")
    options.add_argument("--no-peers", action="store_true", help="byzjax alone, nothing written")
    options.add_argument("--only", help="a comma-separated choice of rules, nothing written")
    options.add_argument("--reps", type=int, help="repetitions (11; 2 with --quick)")
    options.add_argument("--dim", type=int, help=f"d ({DIM}; 2000 with --quick)")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    reps = args.reps or (2 if args.quick else 11)
    dim = args.dim or (2000 if args.quick else DIM)

    report: dict[str, Any] = {"machine": machine()}
    peers = {} if args.no_peers else load("byzfl", "byzpy")
    missing = [name for name in ("byzfl", "byzpy") if name not in peers]
    if missing:
        print(f"Without {' and '.join(missing)}: not asked for, not installed, or no GPU build of torch (README.md).")
    report["versions"] = versions(peers)
    report["settings"] = {"n": N, "f": F, "d": dim, "repetitions": reps, "dtype": "float32"}

    chosen = contests(peers)
    if args.only:
        chosen = {name: chosen[name] for name in args.only.split(",")}
    rules = {name: c for name, c in chosen.items() if c.kind != "mixing"}
    everything = chosen | {f"nnm + {name}": after_nnm(c, peers) for name, c in rules.items()}
    stacks = list(gaussian_stacks(dim, 8))
    arms, slow, report["compile_s"] = make_arms(everything, peers, stacks)
    timings = interleaved(arms, reps, OFTEN) | {name: Timing(t, t, t) for name, t in slow.items()}
    report["timings"] = {name: t.milliseconds() for name, t in timings.items()}
    report["timed_once"] = sorted(slow)
    report["errors"] = errors(everything, peers, dim, set(slow))
    report["rules"] = {name: summary(name, c, timings) for name, c in everything.items()}
    report["goals"] = goals(report)
    text = render(report)
    print(text, json.dumps(report, indent=2), sep="\n")

    complete = not (args.quick or args.only or missing)
    out = args.out or (Path(__file__).parent / "results" if complete else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = f"aggregators-{label(report['machine'])}"
        (out / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
        (out / f"{stem}.md").write_text(text)
        figure(report, out / f"{stem}.png")


def gaussian_stacks(dim: int, count: int) -> Iterator[np.ndarray]:
    """Stacks [n, d], together larger than the caches: a common part, spread, and inner-product attackers at the end."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = (rng.normal(size=dim) + rng.normal(size=(N, dim))).astype(np.float32)
        x[N - F :] = -2.0 * x[: N - F].mean(0)
        yield x


def make_arms(
    everything: dict[str, Contest], peers: dict[str, Any], stacks: list[np.ndarray]
) -> tuple[dict[str, Arm], dict[str, float], dict[str, float]]:
    """Arms to be interleaved; seconds per call of those that are too slow for that; seconds of compilation."""
    placed = [jnp.asarray(x) for x in stacks]
    copy = jax.jit(jnp.copy)
    arms = {"copy of the stack": Arm(lambda: [copy(x).block_until_ready() for x in placed], len(placed))}
    slow, compiling = {}, {}
    for name, contest in everything.items():
        print(f"preparing {name}", file=sys.stderr, flush=True)
        # The state is an argument, or the compiler would leave out what does not count in a first round.
        params = jnp.zeros_like(placed[0][0])
        rest = (contest.rule.init(params), params, KEY)
        apply = jax.jit(lambda x, state, at, key, rule=contest.rule: rule.update(x, state, at, key=key))
        start = time.perf_counter()
        apply = apply.lower(placed[0], *rest).compile()
        compiling[name] = round(time.perf_counter() - start, 2)
        add(arms, slow, f"byzjax {name}", lambda x, f=apply, r=rest: jax.block_until_ready(f(x, *r)), placed)
        for peer in ("byzfl", "byzpy"):
            make = getattr(contest, peer)
            if make is None or peer not in peers:
                continue
            torch = peers["torch"]
            device = "cuda" if jax.default_backend() == "gpu" else "cpu"
            tensors = [torch.from_numpy(x.copy()).to(device) for x in stacks]

            def restore(tensors=tensors, torch=torch) -> None:
                """Some peers overwrite their input, and would find their work done the second time."""
                for tensor, x in zip(tensors, stacks, strict=True):
                    tensor.copy_(torch.from_numpy(x))

            add(arms, slow, f"{peer} {name}", synchronised(make(), torch, device), tensors, restore)
    return arms, slow, compiling


def synchronised(rule: Callable, torch: Any, device: str) -> Callable[[Any], None]:
    def call(x: Any) -> None:
        rule(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def add(
    arms: dict[str, Arm],
    slow: dict[str, float],
    name: str,
    call: Callable[[Any], Any],
    inputs: list,
    before: Callable[[], None] = lambda: None,
) -> None:
    """An arm over all inputs; or, if one call takes long, just its time: medians of minutes would take hours."""
    start = time.perf_counter()
    try:
        with patience(PATIENCE):
            call(inputs[0])
            first = time.perf_counter() - start
            inputs = inputs[: len(inputs) if first < FAST else 2 if first < 1 else 1]
            if first <= SLOW:
                for x in inputs[1:]:  # may hang on one and not on another
                    call(x)
    except TimeoutError:
        slow[name] = float("inf")
        return
    if first > SLOW:
        slow[name] = first
    else:
        arms[name] = Arm(lambda: [call(x) for x in inputs], len(inputs), before)


@contextlib.contextmanager
def patience(seconds: int) -> Iterator[None]:
    """`TimeoutError` in Python code that takes longer."""

    def give_up(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def errors(
    everything: dict[str, Contest], peers: dict[str, Any], dim: int, slow: set[str]
) -> dict[str, dict[str, float]]:
    """Errors against float64, on the benchmark's stack and on near-equal honest rows beside rows of 1e4.

    In units of the median row's distance from the coordinate-wise median: what all honest rows share says nothing.
    Peers are left out where one call takes too long.
    """
    found: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(1)
    close = (100 * rng.normal(size=dim) + 0.01 * rng.normal(size=(N, dim))).astype(np.float32)
    close[[2, 7, 11]] = 1e4 * rng.choice([-1.0, 1.0], size=(F, 1))
    for kind, x in {"ordinary": next(gaussian_stacks(dim, 1)), "hostile": close}.items():
        wide = x.astype(np.float64)
        unit = np.median(np.linalg.norm(wide - np.median(wide, axis=0), axis=1))
        # Rules that turn with the rows are computed in the span of the rows: their references may be d × d.
        basis, triangle = np.linalg.qr(wide.T)

        def expected(contest: Contest, reference: Callable, wide=wide, basis=basis, triangle=triangle) -> np.ndarray:
            if contest.kind in ("weights", "subsets"):
                return reference(np.ascontiguousarray(triangle.T)) @ basis.T
            return reference(wide)

        for name, contest in everything.items():
            if contest.reference is not None:
                got = byzjax.aggregate(contest.rule, jnp.asarray(x), key=KEY)
                off = _distance(got, expected(contest, contest.reference)) / unit
                found.setdefault(name, {})[f"byzjax, {kind}"] = off
            for peer in ("byzfl", "byzpy"):
                make, reference = getattr(contest, peer), contest.peer_reference or contest.reference
                if make is None or reference is None or peer not in peers or f"{peer} {name}" in slow:
                    continue
                with contextlib.suppress(TimeoutError), patience(PATIENCE):
                    got = make()(peers["torch"].from_numpy(x.copy()))
                    got = peers["torch"].stack(got) if isinstance(got, list) else got
                    found.setdefault(name, {})[f"{peer}, {kind}"] = _distance(got, expected(contest, reference)) / unit
    return {name: {who: float(f"{off:.2g}") for who, off in row.items()} for name, row in found.items()}


def _distance(got: Any, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(got, np.float64) - expected, axis=-1).max())


def summary(name: str, contest: Contest, timings: dict[str, Timing]) -> dict[str, Any]:
    """Milliseconds, multiples of the floor, and how many times slower peers are."""
    ours = timings[f"byzjax {name}"].median
    row: dict[str, Any] = {
        "kind": contest.kind,
        "ms": round(1e3 * ours, 3),
        "copies": round(ours / timings["copy of the stack"].median, 2),
    }
    for peer in ("byzfl", "byzpy"):
        if f"{peer} {name}" in timings:
            row[peer] = round(timings[f"{peer} {name}"].median / ours, 2)
    return row


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for and the worst case of what was measured."""
    rows = report["rules"]
    alone = {name: row for name, row in rows.items() if not name.startswith("nnm + ")}
    mixed = {name: row for name, row in rows.items() if name.startswith("nnm + ") and row["kind"] != "subsets"}

    def worst(name: str, values: dict[str, float], sense: str, goal: float) -> dict[str, Any]:
        if not values:
            return {"what": name, "measured": None, "where": "", "goal": f"{sense} {goal:g}", "met": None}
        where = (max if sense == "≤" else min)(values, key=lambda k: values[k])
        met = values[where] <= goal if sense == "≤" else values[where] >= goal
        return {"what": name, "measured": values[where], "where": where, "goal": f"{sense} {goal:g}", "met": met}

    def column(some: dict[str, dict], key: str, *names: str) -> dict[str, float]:
        return {name: row[key] for name, row in some.items() if key in row and (not names or name in names)}

    def of_kind(kind: str) -> dict[str, float]:
        return {name: row["copies"] for name, row in alone.items() if row["kind"] == kind}

    fastest = {
        name: min(row[peer] for peer in ("byzfl", "byzpy") if peer in row)
        for name, row in rows.items()
        if "byzfl" in row or "byzpy" in row
    }
    return [
        worst("coordinate rules, copies of the stack", of_kind("coordinates"), "≤", 4),
        worst("weights rules alone, copies of the stack", of_kind("weights"), "≤", 20),
        worst("NNM + rule, ByzFL / byzjax", column(mixed, "byzfl"), "≥", 12),
        worst("order statistics, ByzFL / byzjax", column(alone, "byzfl", "median", "trimmed_mean", "meamed"), "≥", 25),
        worst("SMEA, ByzFL / byzjax", column(alone, "byzfl", "smea"), "≥", 1000),
        worst("any rule, fastest peer / byzjax", fastest, "≥", 1),
    ]


def render(report: dict[str, Any]) -> str:
    m, s = report["machine"], report["settings"]
    verdict = {True: "yes", False: "NO", None: "not measured"}

    def cell(row: dict[str, Any], key: str) -> Any:
        return Fixed(row[key]) if key in row else "–"

    def error(name: str, who: str) -> str:
        found = report["errors"].get(name, {})
        values = [found.get(f"{who}, {kind}") for kind in ("ordinary", "hostile")]
        return "–" if values == [None, None] else " / ".join("–" if v is None else f"{v:.0e}" for v in values)

    def shown(names: list[str]) -> str:
        return table(
            ("rule", "ms", "copies", "ByzFL ×", "ByzPy ×", "error byzjax", "error ByzFL", "error ByzPy"),
            [
                (
                    name,
                    *(cell(report["rules"][name], key) for key in ("ms", "copies", "byzfl", "byzpy")),
                    *(error(name, who) for who in ("byzjax", "byzfl", "byzpy")),
                )
                for name in names
            ],
        )

    names = list(report["rules"])
    copy, compiling = report["timings"]["copy of the stack"]["median_ms"], report["compile_s"].values()
    once = ", ".join(report["timed_once"]) or "none"
    return (
        "\n\n".join(
            [
                "# Rules, alone and after NNM",
                f"{m['cores']} cores, {m['cpu']}, on {m['device']}; load of the machine before the run: "
                f"{m['load_before']}. "
                f"n = {s['n']}, f = {s['f']}, d = {s['d']}, {s['dtype']}; medians of {s['repetitions']} interleaved "
                f"repetitions, {OFTEN} times as many where eight calls take less than {QUICK:g} s; timed once or given "
                f"up, since one call takes more than {SLOW:g} s: {once}.",
                "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
                table(
                    ("goal", "worst case", "where", "asked", "met"),
                    [(g["what"], g["measured"], g["where"], g["goal"], verdict[g["met"]]) for g in report["goals"]],
                ),
                f"A copy of the stack takes {copy:.3f} ms. *copies*: time in "
                "copies of the stack; *×*: how many times as long the peer takes; *error*: distance from a float64 "
                "reference of the same convention, in units of the median row's distance from the coordinate-wise "
                "median, on the benchmark's stack / on near-equal honest rows (spread 1e-4) beside rows of 1e4.",
                shown([name for name in names if not name.startswith("nnm + ")]),
                shown([name for name in names if name.startswith("nnm + ")]),
                f"Compilation takes {min(compiling)} to {max(compiling)} s a rule.",
            ]
        )
        + "\n"
    )


def figure(report: dict[str, Any], path: Path) -> None:
    """Time of every rule alone in copies of the stack, byzjax beside its peers, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    copy = report["timings"]["copy of the stack"]["median_ms"]
    names = [name for name in report["rules"] if not name.startswith("nnm + ")]
    colours = {"byzjax": "#1b6ca8", "byzfl": "#d98324", "byzpy": "#8a8a8a"}
    fig, ax = plt.subplots(figsize=(8, 0.28 * len(names) + 1.5), layout="constrained")
    for who, colour in colours.items():
        found = [(report["timings"].get(f"{who} {name}") or {}).get("median_ms") for name in names]
        points = [(ms / copy, k) for k, ms in enumerate(found) if ms is not None]
        shown = {"byzjax": "byzjax", "byzfl": "ByzFL 0.0.11", "byzpy": "ByzPy 0.1.4"}[who]
        if not points:  # without that peer
            continue
        ax.plot(*zip(*points, strict=True), "o", color=colour, label=shown, markersize=6)
    ax.set(xscale="log", xlabel="time, in copies of the stack", yticks=range(len(names)), yticklabels=names)
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.invert_yaxis()
    ax.grid(axis="x", which="both", alpha=0.25)
    ax.legend(loc="lower right")
    s = report["settings"]
    ax.set_title(f"One aggregation, n = {s['n']}, f = {s['f']}, d = {s['d']:,}")
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
