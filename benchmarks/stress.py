"""100,000 random and adversarial inputs per rule: is every answer a number, and inside the κ bound where there is one?

``python benchmarks/stress.py`` prints a line per rule and writes the table to ``benchmarks/results/stress.md``; rules
that are done are kept in ``stress.json`` beside it, so that a run can be cut and go on. ``--points COUNT`` holds the
rules that measure from a point against float64 instead, where rows lie next to that point, and writes ``points.json``
and ``points.md``. The tests run short versions of both.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import jax
from _timing import machine, table

from byzjax.testing import points, stress

EXPLANATION = """\
Shapes (n, d, f): {shapes}, as far as a rule takes them: f is lowered where it must be, and at most 500 subsets are
enumerated. Honest rows at scales from 1e-30 to 1e30: clouds, near-equal, tied, duplicated, equal, sparse, clustered, of
uneven length. At most f hostile ones among them: far (to 1e36), at the largest float, NaN, inf, one NaN coordinate,
denormal, zero, copies, inner product, ALIE, opposite, in between. Rules that promise no robustness get *finite* hostile
rows only; if they have a state, the inputs are rounds of runs, up to 1e60 apart from one to the next.

*not finite*: answers with NaN or inf (of a pre-aggregation, in honest rows). *beyond*: answers farther from the honest
mean than the published κ and rounding allow; *worst*: the largest share of that bound that was reached, – where no κ is
published. A κ is held against the variant that it is published for: of the geometric median, the minimiser."""

POINTS = """\
Shapes (n, d, f): {shapes}; honest rows at scales from 1e-8 to 1e8, their spread a hundredth to a quarter of their
length; ν, τ and C log-uniform, ν from 1e-9 to 1. Where the f liars lie, in turn: {places}. *worst*: the largest error
against float64 as a share of the answer's length; *beyond*: how many are above 1e-4."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--count", type=int, default=100_000, help="inputs per rule")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options.add_argument("--points", type=int, metavar="COUNT", help="so many inputs next to the point measured from")
    options.add_argument("rules", nargs="*", help="only these, as in krum-power=4; all by default")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.points:
        return measure_from_points(args.points, args.seed, args.out, args.rules)
    path = args.out / "stress.json"
    done = json.loads(path.read_text()) if path.exists() else {}
    for case in stress.cases():
        if args.rules and case.id not in args.rules:
            continue
        known = done.get(case.id, {})
        if known.get("inputs", 0) >= args.count and known.get("seed") == args.seed:
            continue
        start = time.perf_counter()
        found = stress.check(case, args.seed, args.count)
        done[case.id] = {**found._asdict(), "seed": args.seed, "robust": case.traits.robust}
        done[case.id]["worst"] = None if math.isnan(found.worst) else float(f"{found.worst:.3g}")
        path.write_text(json.dumps(done, indent=1) + "\n")
        print(f"{case.id}: {done[case.id]} in {time.perf_counter() - start:.0f} s", flush=True)
        jax.clear_caches()
    m = machine()
    rows = [
        (name, "all" if d["robust"] else "finite", d["inputs"], d["not_finite"], d["beyond"], d["worst"] or "–")
        for name, d in done.items()
    ]
    text = "\n\n".join(
        [
            "# Random and adversarial inputs",
            EXPLANATION.format(shapes=", ".join(map(str, stress.SHAPES))),
            table(("rule", "hostile rows", "inputs", "not finite", "beyond", "worst"), rows),
            f"On {m['device']}, {m['cpu']}; jax {jax.__version__}.",
        ]
    )
    (args.out / "stress.md").write_text(text + "\n")


def measure_from_points(count: int, seed: int, out: Path, rules: list[str]) -> None:
    path = out / "points.json"
    done = json.loads(path.read_text()) if path.exists() else {}
    for name in rules or points.RULES:
        if done.get(name, {}).get("inputs", 0) < count:
            done[name] = points.check(name, seed, count)._asdict()
            path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
            print(f"{name}: {done[name]}", flush=True)
            jax.clear_caches()
    m = machine()
    rows = [(f"`{name}`", d["inputs"], f"{d['worst']:.1e}", d["beyond"], d["worst_kind"]) for name, d in done.items()]
    text = [
        "# Rules that measure from a point, with liars next to it",
        POINTS.format(shapes=", ".join(map(str, points.SHAPES)), places=", ".join(points.PLACES)),
        table(("rule", "inputs", "worst", "beyond", "of"), rows),
        f"On {m['device']}, {m['cpu']}; jax {jax.__version__}.",
    ]
    (out / "points.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
