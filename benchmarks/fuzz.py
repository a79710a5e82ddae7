"""Every rule beside float64, at its defaults and at the conventions of its peers, on inputs that rules mind.

``python benchmarks/fuzz.py`` prints a line per rule and convention; with all rules it writes the summary to
``benchmarks/results/fuzz.json`` and the table to ``fuzz.md`` beside it. The tests run a short version.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import jax
import numpy as np

from byzjax import aggregators
from byzjax.testing import fuzz


def main() -> None:
    options = argparse.ArgumentParser(description="Every rule beside float64.")
    options.add_argument("--rules", default="", help="only these, separated by commas; all by default")
    options.add_argument("--inputs", type=int, default=2_000, help="per rule and convention")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--show", type=int, default=3, help="how many of the worst inputs to print")
    options.add_argument("--quick", action="store_true", help="three shapes")
    args = options.parse_args()
    shapes = fuzz.SHAPES[1:6:2] if args.quick else fuzz.SHAPES
    names = args.rules.split(",") if args.rules else list(fuzz.CONVENTIONS)
    for name in names:
        if name not in aggregators.REGISTRY:
            raise SystemExit(f"--rules: {name} is not a rule")
        for convention in fuzz.conventions(name):
            start = time.perf_counter()
            found = fuzz.check(name, convention, args.seed, args.inputs, shapes)
            errors = np.array([case.error for case in found if not case.excuse])
            wrong = [case for case in found if case.wrong]
            excuses = Counter(case.excuse for case in found if case.excuse)
            print(
                f"{name}({convention.label}) [{convention.who}]: {len(found)} inputs, {len(wrong)} wrong, "
                f"{dict(excuses)}, largest error {errors.max():.2g}, 99.9 % below {np.quantile(errors, 0.999):.2g}, "
                f"in {time.perf_counter() - start:.0f} s",
                flush=True,
            )
            for pair, count in Counter(case.families for case in wrong).most_common(6):
                print(f"    {count} x {' + '.join(pair)}")
            for case in sorted(wrong, key=lambda case: (case.sent.size, -case.error))[: args.show]:
                print(f"    {case.families} n, d, f = {case.shape}: off by {case.error:.2g}")
                if case.sent.size <= 60:
                    print(f"      x = {case.sent.tolist()}")
                    print(f"      got {case.answer.tolist()}, right {case.right.tolist()}")
        jax.clear_caches()


if __name__ == "__main__":
    main()
