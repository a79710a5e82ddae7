"""What a user's attack, rule, task or recorder returns, held to what it promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.checks import check_kind

ONE_ROW_OF_ALL = "a rule makes one row of all, with the parameters' leaves; anything else would broadcast into them."


def check_pair(value: Any, where: str, *, wanted: str) -> tuple[Any, Any]:
    """Reject what is no pair; an array of two rows would come apart in silence.

    Raises:
      ValueError: it is something else.

    >>> check_pair([1, 2], "Attack.update", wanted="(updates, state)")
    Traceback (most recent call last):
    ValueError: Attack.update: what it returns = [1, 2] is a list, not a tuple; return the pair (updates, state).
    """
    check_kind(value, tuple, "what it returns", where, fix=f"return the pair {wanted}.")
    if len(value) != 2:
        raise ValueError(f"{where}: what it returns has {len(value)} parts; return the pair {wanted}.")
    return value  # type: ignore[return-value]


def check_like(value: Any, like: Any, argument: str, where: str, *, fix: str, dtypes: bool = False) -> Any:
    """Reject a tree of another structure or other shapes than ``like``, which would broadcast; returns it.

    Args:
      value: what was handed in.
      like: what it must look like.
      argument: its name.
      where: the function that got it.
      fix: what to do instead, as the end of the sentence.
      dtypes: these must agree, too.

    Raises:
      ValueError: it does not.

    >>> check_like(0.5, jnp.zeros((2, 3)), "the aggregate", "rule", fix="give every parameter a value.")
    Traceback (most recent call last):
    ValueError: rule: the aggregate is [] where [2, 3] is wanted; give every parameter a value.
    """
    given, wanted = described(value, dtypes=dtypes), described(like, dtypes=dtypes)
    for path in [*wanted, *given]:
        if given.get(path) != wanted.get(path):
            raise ValueError(
                f"{where}: {argument}{path} is {given.get(path, 'not there')} where {wanted.get(path, 'nothing')} is "
                f"wanted; {fix}"
            )
    return value


def described(tree: Any, *, dtypes: bool = False, rows: bool = False) -> dict[str, str]:
    """Every leaf's shape under its path, with its dtype if wanted; of a stack, one row's with ``rows``.

    >>> described({"w": jnp.zeros((2, 3))}), described({"w": jnp.zeros((2, 3))}, rows=True)
    ({"['w']": '[2, 3]'}, {"['w']": '[3]'})
    """
    return {
        jax.tree_util.keystr(path): f"{jnp.result_type(leaf) if dtypes else ''}{list(jnp.shape(leaf)[rows:])}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_measured(values: Any, where: str) -> dict[str, Any]:
    """Named numbers as a dict of arrays; Python's and NumPy's are as good as JAX's.

    Raises:
      ValueError: no dict, or something in it that is no number.

    >>> check_measured({"loss": 1.5}, "record")
    {'loss': Array(1.5, dtype=float32, weak_type=True)}
    """
    check_kind(values, Mapping, "what it returns", where, fix="return a dict of named arrays.")
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    for path, leaf in jax.tree.leaves_with_path(values, is_leaf=lambda leaf: leaf is None):
        check_kind(
            leaf,
            kinds,
            f"what it returns{jax.tree_util.keystr(path)}",
            where,
            fix="return numbers.",
            wanted="a number or an array",
        )
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf), dict(values))


def no_value_fn(who: str) -> Callable[..., Any]:
    """What is passed as ``value_fn=`` where nobody has the loss at other parameters.

    Args:
      who: would call it, as messages begin.

    >>> no_value_fn("per_worker: tx")(0.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: per_worker: tx calls value_fn, the loss at other parameters, which is not to be had here; ...
    """

    def value_fn(*args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        raise ValueError(
            f"{who} calls value_fn, the loss at other parameters, which is not to be had here; choose one without line "
            "search, e.g. optax.lbfgs(linesearch=None)."
        )

    return value_fn


def missing_unless(present: jax.Array, value: jax.Array) -> jax.Array:
    """NaN in place of a value that does not exist. Integers and flags become floating, since they have no NaN.

    >>> missing_unless(jnp.array(False), jnp.array(3)), missing_unless(jnp.array(True), jnp.array(3))
    (Array(nan, dtype=float32), Array(3., dtype=float32))
    """
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        value = value.astype(jnp.result_type(float))
    # NumPy's, so that no operation gives NaN where the value exists, which jax_debug_nans would stop at.
    return jax.lax.select(present, value, np.full(value.shape, np.nan, value.dtype))


def only_masked(returned: Any, sent: Any, mask: jax.Array) -> Any:
    """``returned`` where the mask bool[n] is true, else ``sent``, in every leaf ``[n, …]``; both must look alike."""

    def rows(new: jax.Array, old: jax.Array) -> jax.Array:
        return old if new is old else jnp.where(mask.reshape((-1,) + (1,) * (jnp.ndim(old) - 1)), new, old)

    return jax.tree.map(rows, returned, sent)
