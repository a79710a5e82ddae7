"""One line of error for what is handed in: of the wrong kind, none of the choices, out of range."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.checks.traced import concrete
from byzjax.types import Numeric, Stacked

if TYPE_CHECKING:
    import xarray

_MOST = 60  # characters of a value that a message shows


def check_kind(
    value: Any, kinds: type | tuple[type, ...], argument: str, where: str, *, fix: str, wanted: str | None = None
) -> Any:
    """Reject what is of none of the kinds; returns it.

    Args:
      value: what was handed in.
      kinds: as for `isinstance`.
      argument: its name.
      where: the function that got it.
      fix: what to do instead, as the end of the sentence.
      wanted: the kinds in words; by default their names.

    Raises:
      ValueError: it is something else.

    >>> check_kind("sgd", int, "server", "Method", fix="pass optax.sgd(0.1).")
    Traceback (most recent call last):
    ValueError: Method: server = 'sgd' is a str, not an int; pass optax.sgd(0.1).
    """
    if isinstance(value, kinds):
        return value
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    wanted = wanted or " or ".join(with_article(kind.__name__) for kind in kinds)
    raise ValueError(
        f"{where}: {argument} = {shown(value)} is {with_article(type(value).__name__)}, not {wanted}; {fix}"
    )


def check_choice(value: Any, choices: Sequence[Any], argument: str, where: str) -> Any:
    """Reject what is none of the choices; returns the choice. Take them from the hint: ``typing.get_args(Init)``.

    NumPy's texts and numbers are as good as Python's, and 2.0 is 2; but no flag is a number.

    Raises:
      ValueError: it is something else.

    >>> check_choice(np.int64(2), (1, 2, 4), "power", "krum")
    2
    >>> check_choice("mid", ("midpoint", "lower"), "even", "median")
    Traceback (most recent call last):
    ValueError: median: even = 'mid' must be 'midpoint' or 'lower'.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    for choice in choices:
        numbers = type(plain) in (int, float) and type(choice) in (int, float)
        if plain is choice or ((numbers or type(plain) is type(choice)) and plain == choice):
            return choice
    *others, last = map(repr, choices)
    raise ValueError(
        f"{where}: {argument} = {shown(value)} must be {', '.join(others)}{' or ' if others else ''}{last}."
    )


def shown(value: Any) -> str:
    """``repr``, cut where it is long; of one line.

    >>> shown("x" * 100)[-10:]
    'xxxxxxxxx…'
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def quoted(text: str) -> str:
    """As one word for a shell, to be pasted: in the quotes that leave it readable.

    >>> print(quoted("nnm,rfa"), quoted("ipm(scale=1)"), quoted("mimic('copy')"))
    nnm,rfa 'ipm(scale=1)' "mimic('copy')"
    """
    return f'"{text}"' if "'" in text and not set('"$`\\!') & set(text) else shlex.quote(text)


def with_article(noun: str) -> str:
    """``a`` or ``an``, and the noun.

    >>> with_article("Attack"), with_article("Task")
    ('an Attack', 'a Task')
    """
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def check_f(f: Any, where: str) -> Any:
    """Reject a declared number of Byzantine workers that is negative or not an integer.

    Returns it as a Python integer, whatever type it came in: NumPy's numbers bring their own dtype into sums.
    """
    value = concrete(f, lambda known: check_f(known, where))
    if value is None:
        return f
    number = value.dtype.kind in "iuf" and value.ndim == 0 and bool(np.isfinite(value))
    if not number or value != np.floor(value) or value < 0:
        raise ValueError(
            f"{where}: f = {shown(f)} must be an integer ≥ 0; it is the number of Byzantine workers to tolerate."
        )
    return int(value)


def check_minority(f: Numeric, num_workers: int, where: str) -> jax.Array | float:
    """Reject 2f ≥ n: no rule can tell which half is honest.

    Returns what a rule multiplies its answer by: 1, or NaN for a traced f that is no minority, of which nobody can
    raise.
    """
    value = concrete(f, lambda known: check_minority(known, num_workers, where))
    if value is None:
        return nan_unless((f >= 0) & (2 * f < num_workers))
    if 2 * value >= num_workers:
        raise ValueError(
            f"{where}: f = {f} of n = {num_workers} workers is not a minority (2f ≥ n); "
            f"use f ≤ {(num_workers - 1) // 2} or more workers."
        )
    return 1.0


def nan_unless(valid: Any) -> jax.Array:
    """1 where a traced condition holds, else NaN: what a rule multiplies its answer by when it cannot raise."""
    # A root, not a constant NaN: jax_debug_nans stops at one that nobody takes.
    return jnp.sqrt(jnp.where(valid, 1.0, -1.0))


def check_number(
    value: Any,
    argument: str,
    where: str,
    *,
    least: float = -np.inf,
    open_below: bool = False,
    below: float = np.inf,
    finite: bool = True,
) -> None:
    """Reject what is not one finite number, or one outside ``[least, below)``, or at ``least``.

    With ``finite=False`` +∞ is a number, too.
    """

    def again(known: Any) -> None:
        check_number(known, argument, where, least=least, open_below=open_below, below=below, finite=finite)

    number = concrete(value, again)
    if number is None:
        return
    rule = "a finite number" if finite else "a number"
    rule += f" {'>' if open_below else '≥'} {least:g}" if least > -np.inf else ""
    rule += f" and < {below:g}" if below < np.inf else ""
    fine = number.dtype.kind in "iuf" and number.ndim == 0 and bool(np.isfinite(number))
    if not finite and number.dtype.kind == "f" and number.ndim == 0 and number == np.inf:
        return
    if not fine or number < least or (open_below and number == least) or number >= below:
        raise ValueError(f"{where}: {argument} = {shown(value)} must be {rule}.")


def number_or_nan(value: Any, argument: str, where: str, **allowed: Any) -> Any:
    """`check_number`; returns the number, and NaN in place of a traced one that is out of range.

    Raises:
      ValueError: as `check_number`, and for a traced array.

    >>> jax.jit(lambda beta: number_or_nan(beta, "beta", "momentum", least=0, below=1))(jnp.array([0.5, 1.5])[1]).item()
    nan
    """
    check_number(value, argument, where, **allowed)
    if concrete(value) is not None:
        return value
    if jnp.ndim(value):
        raise ValueError(f"{where}: {argument} is a traced array of shape {jnp.shape(value)}, not one number; vmap it.")
    valid = jnp.isfinite(value)
    if "least" in allowed:
        valid &= value > allowed["least"] if allowed.get("open_below") else value >= allowed["least"]
    if "below" in allowed:
        valid &= value < allowed["below"]
    return value * nan_unless(valid)


def check_integer(value: Any, argument: str, where: str, *, least: int) -> int:
    """Reject what is not an integer ≥ ``least``; 8.0 is one, True is not. Returns it as a Python integer."""
    number = concrete(value)
    fine = number is not None and number.dtype.kind in "iuf" and number.ndim == 0 and bool(np.isfinite(number))
    if number is None or not fine or number != np.floor(number) or number < least:
        raise ValueError(f"{where}: {argument} = {shown(value)} must be an integer ≥ {least}, and not traced.")
    return int(number)


def check_mask(byzantine: jax.Array, num_workers: int) -> jax.Array:
    """Reject a mask that is not bool[n]; integers would be silently wrong, since ~1 is -2."""
    byzantine = jnp.array(byzantine) if isinstance(byzantine, np.ndarray) else jnp.asarray(byzantine)  # never borrowed
    if byzantine.shape != (num_workers,) or byzantine.dtype != jnp.bool_:
        raise ValueError(
            f"byzantine: {byzantine.dtype}{list(byzantine.shape)} is not a mask bool[{num_workers}], one entry per "
            f"worker of the task; e.g. jnp.arange({num_workers}) >= {num_workers - 1}."
        )
    return byzantine


def num_workers_of(updates: Stacked) -> int:
    """The length of the worker axis that all leaves share.

    >>> num_workers_of({"w": jnp.zeros((4, 3)), "b": jnp.zeros((4,))})
    4
    """
    leaves = jax.tree.leaves_with_path(updates)
    if isinstance(updates, list | tuple) and len(leaves) > 1 and {jnp.ndim(x) for _, x in leaves} == {1}:
        raise ValueError(
            f"updates: a list of {len(leaves)} vectors is ambiguous: as a tree it is {len(leaves)} parameters, not "
            "workers. Stack workers with jnp.stack(…); give parameters as a dict."
        )
    if not leaves:
        raise ValueError("updates: an empty tree has no workers; pass arrays with a leading worker axis.")
    sizes = {}
    for path, leaf in leaves:
        name = f"updates{jax.tree_util.keystr(path)}"
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"{name} is a scalar; every leaf needs a leading worker axis [n, …].")
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"{name} has dtype {jnp.result_type(leaf)}; updates must be floating point, e.g. float32.")
        sizes[name] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) != 1:
        raise ValueError(f"updates: leaves disagree on the number of workers (axis 0): {sizes}.")
    n = next(iter(sizes.values()))
    if n == 0:
        raise ValueError("updates: the worker axis has length 0; pass at least one worker.")
    return n


def check_dataset(value: Any, where: str, argument: str = "dataset") -> xarray.Dataset:
    """Reject what is no data set; returns it.

    Raises:
      ValueError: it is something else.
    """
    import xarray

    fix = "pass what byzjax.sweep or byzjax.results.load gave, or byzjax.results.to_dataset makes of a Result."
    return check_kind(value, xarray.Dataset, argument, where, fix=fix)
