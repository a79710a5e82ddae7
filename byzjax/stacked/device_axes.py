"""What the types of values say inside `jax.shard_map`: along which axes of devices they vary."""

from __future__ import annotations

from typing import Any

import jax

Axes = frozenset[str]


def types_name_axes() -> bool:
    """Whether this is inside `jax.shard_map`, and the types of values there say what axes they vary over."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return bool(manual) and bool(varying_axes(jax.lax.axis_index(manual[0])))


def varying_axes(tree: Any) -> Axes:
    """The axes of devices that arrays vary over; the attribute has had three names."""
    found: set[str] = set()
    for leaf in jax.tree.leaves(tree):
        kind = jax.typeof(leaf)
        manual = getattr(kind, "mat", None) or getattr(kind, "manual_axis_type", None)
        found.update(getattr(kind, "vma", None) or getattr(manual, "varying", ()))
    return frozenset(found)


def varying_over(tree: Any, axes: Axes) -> Any:
    """``tree`` varying over these axes, too."""

    def cast(leaf: Any) -> Any:
        missing = tuple(axes - varying_axes(leaf))
        if not missing:
            return leaf
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(leaf, missing, to="varying")
        return jax.lax.pvary(leaf, missing)  # type: ignore[attr-defined]  # JAX 0.8

    return jax.tree.map(cast, tree) if axes else tree
