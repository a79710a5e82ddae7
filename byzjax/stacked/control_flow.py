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
from byzjax.stacked.device_axes import Axes, types_name_axes, varying_axes, varying_over

State = TypeVar("State")


def while_loop(holds: Callable[[State], jax.Array], turn: Callable[[State], State], state: State) -> State:
    """`jax.lax.while_loop`.

    >>> int(while_loop(lambda k: k < 10, lambda k: 2 * k, 3))
    12
    """
    axes = _axes_of_loop(lambda s: (holds(s), turn(s)), state)
    return jax.lax.while_loop(holds, lambda s: varying_over(turn(s), axes), varying_over(state, axes))


def fori_loop(first: Any, last: Any, turn: Callable[[Any, State], State], state: State) -> State:
    """`jax.lax.fori_loop`.

    >>> int(fori_loop(0, 3, lambda i, total: total + i, 0))
    3
    """
    axes = _axes_of_loop(lambda s: (last, turn(first, s)), state)
    return jax.lax.fori_loop(first, last, lambda i, s: varying_over(turn(i, s), axes), varying_over(state, axes))


def scan(turn: Callable[[State, Any], tuple[State, Any]], state: State, xs: Any = None, **options: Any) -> Any:
    """`jax.lax.scan`.

    >>> int(scan(lambda total, x: (total + x, None), 0, jax.numpy.arange(3))[0])
    3
    """
    axes = _axes_of_loop(lambda s: turn(s, jax.tree.map(lambda x: x[0], xs)), state)

    def step(state: State, x: Any) -> tuple[State, Any]:
        state, y = turn(state, x)
        return varying_over(state, axes), y

    return jax.lax.scan(step, varying_over(state, axes), xs, **options)


def varying_like(tree: Any, *others: Any) -> Any:
    """``tree`` varying over all axes of devices that any array in it or in ``others`` varies over."""
    return varying_over(tree, varying_axes((tree, others)))


def _axes_of_loop(turn: Callable[[State], Any], state: State) -> Axes:
    """What a state varies over after a turn, which is traced once more for that."""
    if not types_name_axes():
        return frozenset()
    seen: list[Axes] = []
    jax.eval_shape(lambda s: seen.append(varying_axes((s, turn(s)))), state)
    return seen[-1]


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
