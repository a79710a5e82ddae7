"""Every rule beside float64, at its defaults and at the conventions of its peers, on inputs that rules mind.

``python benchmarks/fuzz.py`` prints a line per rule and convention, and the smallest inputs with a wrong answer.
Results are kept in ``benchmarks/results/fuzz.json``, so that a run can be cut and go on, with a table in ``fuzz.md``
beside it. The tests run a short version.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _timing import machine, table

from byzjax.testing import fuzz, stacks
from byzjax.testing.conventions import CONVENTIONS

EXPLANATION = """\
{inputs} inputs for every line, half of them with options that are lengths near the rows' own, the others at scales from
1e-10 to 1e10. Shapes (n, d, f): {shapes}, as far as a rule takes them: f is lowered where it must be, and at most 200
subsets are enumerated. Honest rows: {honest}. Hostile rows among them, at most f: {hostile}. A rule with a memory is
asked three times, and hostile rows may then lie on its last answer.

The references are float64 NumPy, written from the papers' formulas ([byzjax/testing](../../byzjax/testing)). *Largest*
and *99.9 %* are errors in units of the honest scale: the median norm of the honest rows, an option that limits what a
row can do where that is shorter (down to 1e-5 of it), the length of the right answer where that is longer. *Wrong* are
errors beyond 1e-4, but for two kinds that are counted apart, and left out of those columns:

- *ties*: float64 calls what was chosen as good as the best choice, to a relative difference of 1e-5 of the scores (as
  lengths), or gives the same answer when rows or thresholds change by so much; or the answer is another of the
  geometric medians that an even number of rows on a line has;
- *rounding*: float64's own answer moves at least half as far when every number of the input is rounded to float32
  another way, equal rows alike, or to up to three bits less, which makes nearly equal rows equal."""


def main() -> None:
    options = argparse.ArgumentParser(description="Every rule beside float64, at its peers' conventions.")
    options.add_argument("--rules", default="", help="only these, separated by commas; all by default")
    options.add_argument("--inputs", type=int, default=2_000, help="per rule and convention")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    options.add_argument("--show", type=int, default=2, help="how many inputs with a wrong answer to print")
    options.add_argument("--quick", action="store_true", help="three shapes; writes nothing")
    args = options.parse_args()
    names = args.rules.split(",") if args.rules else list(CONVENTIONS)
    if unknown := [name for name in names if name not in CONVENTIONS]:
        raise SystemExit(f"--rules: {unknown} are not among {', '.join(CONVENTIONS)}")
    done = json.loads(args.out.read_text()) if args.out.exists() and not args.quick else {}
    shapes = fuzz.SHAPES[1:6:2] if args.quick else fuzz.SHAPES
    for name in names:
        for convention in CONVENTIONS[name]:
            line = convention.named(name)
            known = done.get(line, {})
            if known.get("inputs", 0) >= args.inputs and known.get("seed") == args.seed and not known["wrong"]:
                continue
            start = time.perf_counter()
            found = fuzz.check(name, convention, args.seed, args.inputs, shapes)
            done[line] = {"seed": args.seed, **summary(found)}
            seconds = time.perf_counter() - start
            short = {key: value for key, value in done[line].items() if key not in ("seed", "families")}
            print(f"{line}: {short} in {seconds:.0f} s", flush=True)
            show([case for case in found if case.wrong], args.show)
            if not args.quick:
                write(args.out, done, args.inputs)
        jax.clear_caches()


def summary(found: Sequence[fuzz.Case]) -> dict[str, Any]:
    """What became of the inputs, and the largest error that is not excused of every family."""
    errors = np.array([case.error for case in found if not case.excuse])
    excuses = Counter(case.excuse for case in found)
    families: dict[str, float] = defaultdict(float)
    for case in found:
        for family in case.families:
            families[family] = max(families[family], 0.0 if case.excuse else case.error)
    return {
        "inputs": len(found),
        "wrong": sum(case.wrong for case in found),
        "ties": excuses["tie"],
        "rounding": excuses["rounding"],
        "largest": rounded(errors.max()),
        "most": rounded(np.quantile(errors, 0.999, method="higher")),
        "families": {family: rounded(error) for family, error in sorted(families.items())},
    }


def show(wrong: Sequence[fuzz.Case], count: int) -> None:
    """Where answers were wrong, and the smallest of these inputs."""
    for families, times in Counter(case.families for case in wrong).most_common(6):
        print(f"    {times} x {' + '.join(families)}")
    for case in sorted(wrong, key=lambda case: (case.sent.size, -case.error))[:count]:
        print(f"    {' + '.join(case.families)}, n, d, f = {case.shape}: off by {case.error:.2g}")
        if case.sent.size <= 60:
            print(f"      x = {case.sent.tolist()}\n      got {case.answer.tolist()}, right {case.right.tolist()}")


def rounded(error: float) -> float:
    return float(f"{error:.2g}")


def write(path: Path, done: dict[str, Any], inputs: int) -> None:
    """The results as JSON, and as a table."""
    order = [convention.named(name) for name in CONVENTIONS for convention in CONVENTIONS[name]]
    done = {line: done[line] for line in order if line in done}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(done, indent=1) + "\n")
    rows = [
        (
            *line.split(": "),
            d["inputs"],
            d["wrong"],
            d["ties"],
            d["rounding"],
            f"{d['most']:.1g}",
            f"{d['largest']:.1g}",
        )
        for line, d in done.items()
    ]
    m = machine()
    explained = EXPLANATION.format(
        inputs=f"{inputs:,}",
        shapes=", ".join(map(str, fuzz.SHAPES)),
        honest=", ".join(f"{name} ({(draw.__doc__ or '').strip('.').lower()})" for name, draw in stacks.HONEST.items()),
        hostile=", ".join(stacks.HOSTILE),
    )
    text = [
        "# Beside float64",
        "\n\n".join(part if part[0] == "-" else textwrap.fill(part, 118) for part in explained.split("\n\n")),
        table(("rule", "convention", "inputs", "wrong", "ties", "rounding", "99.9 %", "largest"), rows),
        f"On {m['device']}, {m['cpu']}; jax {jax.__version__}.",
    ]
    path.with_suffix(".md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
