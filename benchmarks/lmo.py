"""Steps of the spectral norm: time and exactness of every method, beside a singular value decomposition.

    python benchmarks/lmo.py [--quick] [--out FOLDER]

A Gaussian matrix of each size. ``gain`` is ⟨v, u⟩/‖v‖_*, 1 for the LMO and less or more for what is none, and
``norm`` the largest singular value of u, 1 for what stays in the ball.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _timing import Arm, interleaved, label, machine, table

from byzjax import transforms

# Layers of MNIST's MLP, a square one, and a matrix of today's language models.
SIZES = ((784, 128), (128, 64), (512, 512), (4096, 4096))
METHODS: dict[str, dict[str, Any]] = {
    "svd": {},
    "polar": {"method": "polar"},
    "Newton–Schulz, classic": {"method": "newton_schulz", "coefficients": "classic"},
    "Newton–Schulz, Dion": {"method": "newton_schulz", "coefficients": "dion"},
    "Newton–Schulz, Polar Express": {"method": "newton_schulz", "coefficients": "polar_express"},
}


def measured(shape: tuple[int, int], reps: int) -> dict[str, dict[str, float]]:
    """Every method on one matrix."""
    v = jax.random.normal(jax.random.key(0), shape)
    links = {name: transforms.scale_by_lmo("spectral", **options) for name, options in METHODS.items()}
    steps = {name: jax.jit(lambda v, link=link: link.update(v, link.init(v))[0]) for name, link in links.items()}
    arms = {name: Arm(lambda step=step: jax.block_until_ready(step(v))) for name, step in steps.items()}
    times = interleaved(arms, reps)
    nuclear = jnp.linalg.svd(v, compute_uv=False).sum()
    found = {}
    for name, step in steps.items():
        u = step(v)
        norm = jnp.linalg.svd(u, compute_uv=False)[0]
        gain = jnp.vdot(v, u, precision="highest") / nuclear
        found[name] = {**times[name].milliseconds(), "gain": float(gain), "norm": float(norm)}
        print(shape, name, found[name], flush=True)
    return found


def main() -> None:
    """All sizes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a smoke run of the small sizes; writes nothing")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    where = machine()
    # A decomposition of the largest takes half a minute on two cores.
    sizes = SIZES[1:2] if args.quick else SIZES if where["device"] != "cpu" else SIZES[:3]
    report: dict[str, Any] = {"machine": where, "runs": {}}
    for shape in sizes:
        report["runs"]["×".join(map(str, shape))] = measured(shape, 1 if args.quick else 7)
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"lmo-{label(where)}.json").write_text(json.dumps(report, indent=1) + "\n")
    rows = [
        (size, name, f"{one['median_ms']:.2f}", f"{one['gain']:.5f}", f"{one['norm']:.4f}")
        for size, found in report["runs"].items()
        for name, one in found.items()
    ]
    text = [
        "# Steps of the spectral norm",
        "Gaussian matrices in float32; median of 7, interleaved; `python benchmarks/lmo.py`.",
        table(("matrix", "method", "ms", "⟨v, u⟩/‖v‖_*", "largest σ of u"), rows),
        f"On {where['device']}, {where['cpu']}, {where['cores']} cores, load {where['load_before']} before.",
    ]
    (out / f"lmo-{label(where)}.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
