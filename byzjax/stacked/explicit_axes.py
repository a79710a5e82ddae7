"""Meshes with axes of type Explicit, where the sharding of an array belongs to its type: links run as on Auto axes.

Rules slice and gather over workers in ways to which the types of shardings have no answer; the compiler has. What comes
out is laid out as what went in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


def on_auto_axes(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], gives: Callable[[Any], Any]
) -> Any:
    """``function(*arguments, **options)``, with all axes of type Auto inside if an array's sharding is typed.

    Args:
      function: any.
      arguments, options: trees of arrays and of anything else.
      gives: from a function that makes a sharding of a spec, the shardings of the results, or a prefix of their tree.
    """
    leaves, structure = jax.tree.flatten((arguments, options))
    mesh = next((mesh for leaf in leaves if (mesh := _explicit_mesh(leaf)) is not None), None)
    if mesh is None:
        return function(*arguments, **options)
    arrays = {k: leaf for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

    def inside(arrays: dict[int, jax.Array]) -> Any:
        given = [arrays.get(k, leaf) for k, leaf in enumerate(leaves)]
        arguments, options = jax.tree.unflatten(structure, given)
        return function(*arguments, **options)

    def sharding(*spec: Any, mesh: Any = mesh) -> NamedSharding:
        return NamedSharding(mesh, P(*spec))

    return jax.sharding.auto_axes(inside, out_sharding=gives(sharding))(arrays)


def typed(tree: Any, sharding: Callable[..., Any], skip: int = 0, first: tuple[None, ...] = ()) -> Any:
    """Each array's sharding, with other first axes in place of so many of its own."""

    def of(leaf: Any) -> Any:
        if _explicit_mesh(leaf) is None:
            return sharding()
        return sharding(*first, *tuple(jax.typeof(leaf).sharding.spec)[skip:])

    return jax.tree.map(of, tree)


def _explicit_mesh(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return None
    # A tracer's mesh is abstract; operation by operation the devices have to be known.
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, jax.core.Tracer) else leaf.sharding
    mesh = getattr(sharding, "mesh", None)
    return mesh if mesh is not None and AxisType.Explicit in mesh.axis_types else None
