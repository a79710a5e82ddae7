"""Loops that also run inside `jax.shard_map`, where the axes of devices that a value varies over belong to its type.

A loop's state has to keep its type. Zeros vary over no axis, what a turn adds to them varies as the data do: here all
of the state varies over whatever a part of it varies over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from byzjax.stacked.coordinate_axis import of_a_part

State = TypeVar("State")
Axes = frozenset[str]


def while_loop(holds: Callable[[State], jax.Array], turn: Callable[[State], State], state: State) -> State:
    """`jax.lax.while_loop`.

    >>> int(while_loop(lambda k: k < 10, lambda k: 2 * k, 3))
    12
    """
    axes = _axes_of_loop(lambda s: (holds(s), turn(s)), state)
    return jax.lax.while_loop(holds, lambda s: _varying(turn(s), axes), _varying(state, axes))


def fori_loop(first: Any, last: Any, turn: Callable[[Any, State], State], state: State) -> State:
    """`jax.lax.fori_loop`.

    >>> int(fori_loop(0, 3, lambda i, total: total + i, 0))
    3
    """
    axes = _axes_of_loop(lambda s: (last, turn(first, s)), state)
    return jax.lax.fori_loop(first, last, lambda i, s: _varying(turn(i, s), axes), _varying(state, axes))


def scan(turn: Callable[[State, Any], tuple[State, Any]], state: State, xs: Any = None, **options: Any) -> Any:
    """`jax.lax.scan`.

    >>> int(scan(lambda total, x: (total + x, None), 0, jax.numpy.arange(3))[0])
    3
    """
    axes = _axes_of_loop(lambda s: turn(s, jax.tree.map(lambda x: x[0], xs)), state)

    def step(state: State, x: Any) -> tuple[State, Any]:
        state, y = turn(state, x)
        return _varying(state, axes), y

    return jax.lax.scan(step, _varying(state, axes), xs, **options)


def varying_like(tree: Any, *others: Any) -> Any:
    """``tree`` varying over all axes of devices that any array in it or in ``others`` varies over."""
    return _varying(tree, _axes((tree, others)))


def _axes_of_loop(turn: Callable[[State], Any], state: State) -> Axes:
    """What a state varies over after a turn, which is traced once more for that."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    if not manual or not _axes(jax.lax.axis_index(manual[0])):  # not inside, or nobody keeps account
        return frozenset()
    seen: list[Axes] = []
    jax.eval_shape(lambda s: seen.append(_axes((s, turn(s)))), state)
    return seen[-1]


def _axes(tree: Any) -> Axes:
    """The axes of devices that arrays vary over; the attribute has had three names."""
    found: set[str] = set()
    for leaf in jax.tree.leaves(tree):
        kind = jax.typeof(leaf)
        manual = getattr(kind, "mat", None) or getattr(kind, "manual_axis_type", None)
        found.update(getattr(kind, "vma", None) or getattr(manual, "varying", ()))
    return frozenset(found)


def _varying(tree: Any, axes: Axes) -> Any:
    def cast(leaf: Any) -> Any:
        missing = tuple(axes - _axes(leaf))
        if not missing:
            return leaf
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(leaf, missing, to="varying")
        return jax.lax.pvary(leaf, missing)  # type: ignore[attr-defined]  # JAX 0.8

    return jax.tree.map(cast, tree) if axes else tree


Function = TypeVar("Function", bound=Callable[..., Any])


def in_turn(function: Function, plain: Callable[..., Any] | None = None) -> Function:
    """A function of large stacks that ``vmap`` on a CPU calls for one after the other.

    Each alone fills the cores; and XLA copies a whole batch into every loop, were it one of no turns. Not on a part of
    the coordinates: batching calls the function again, when nobody knows any more that it sees a part.

    Args:
      function: of arrays, without any from outside.
      plain: gives the same, and is differentiated in its place; by default the function itself.
    """
    return function if jax.default_backend() != "cpu" or of_a_part() else one_by_one(function, plain)


def one_by_one(function: Function, plain: Callable[..., Any] | None = None) -> Function:
    """A function that ``vmap`` calls for one after the other, here and on every backend; see `in_turn`.

    Its derivative is that of ``plain``, of which a batch is a batch: rules of ``vmap`` cannot be differentiated where
    tangents alone are batched.
    """
    batched = jax.custom_batching.sequential_vmap(function)

    @jax.custom_jvp
    def called(*arguments: Any) -> Any:
        return batched(*arguments)

    @called.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        return jax.jvp(function if plain is None else plain, primals, tangents)

    return called  # type: ignore[return-value]


def only_if(holds: jax.Array, function: Callable[[Any], Any], state: Any) -> Any:
    """``function(state)`` where it ``holds``, else ``state``; any tree of arrays.

    A loop of at most one turn: a conditional would run both ways under ``vmap``.
    """
    once = while_loop(lambda s: s[0], lambda s: (jnp.zeros((), bool), function(s[1])), (holds, state))
    return once[1]
