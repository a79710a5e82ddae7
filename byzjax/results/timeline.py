"""When what a run gave was seen: which rounds its history is of, and after which ones it was evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from byzjax.checks import check_integer
from byzjax.simulation.simulate import Result


def timeline(result: Result, eval_every: Any, where: str) -> tuple[int, np.ndarray | None]:
    """How many rounds were made before those of the history, and the rounds after which was evaluated.

    Args:
      result: of one run.
      eval_every: what is said of it; None if nothing is.
      where: the function that asks.

    Returns:
      The rounds of evaluations are None where neither the result nor ``eval_every`` tells.

    Raises:
      ValueError: several runs; entries that are not one per round or evaluation; another ``eval_every`` than the run's.

    >>> import jax.numpy as jnp
    >>> timeline(Result(None, {"loss": jnp.zeros(5)}, {"objective": jnp.zeros(2)}), 2, "to_dataset")
    (0, array([2, 4]))
    """
    axes = np.shape(result.state.step) if result.state is not None else np.shape(result.eval_rounds)[:-1]
    if axes:
        raise ValueError(
            f"{where}: the result is of several runs, with the axes {list(axes)} of a vmap; pass them one by one, "
            "jax.tree.map(lambda leaf: leaf[0], result), or use byzjax.sweep, which names their axes."
        )
    num_rounds = _length(result.history, "history", "round", where)
    num_evals = _length(result.evals, "evals", "evaluation", where)
    step = num_rounds if result.state is None else int(result.state.step)
    after = 0 if step is None or num_rounds is None else step - num_rounds
    if eval_every is not None:
        eval_every = check_integer(eval_every, "config: eval_every", where, least=0)
    made = None if result.eval_rounds is None else np.asarray(result.eval_rounds)
    if made is None and eval_every and num_evals is not None:
        made = after + eval_every * np.arange(1, num_evals + 1)
    if made is None:
        return after, None
    outside = len(made) > 0 and step is not None and not after < made[0] <= made[-1] <= step
    if outside or num_evals not in (None, len(made)):
        raise ValueError(
            f"{where}: the run was {_said(made)}, which does not fit {num_evals} evaluations, or the rounds "
            f"{after + 1} to {step} of the history; pass a result as byzjax.run or byzjax.simulate gave it, and its "
            "own eval_every."
        )
    expected = made if eval_every is None else _expected(eval_every, after, num_rounds, made)
    if not np.array_equal(expected, made):
        raise ValueError(
            f"{where}: config says eval_every = {eval_every}, but the run was {_said(made)}; say what it was run with, "
            "or leave it out."
        )
    return after, made


def check_lengths(num_rounds: int, num_evals: int, eval_every: int, where: str) -> None:
    """Reject an ``eval_every`` that so many evaluations of so many rounds contradict.

    Raises:
      ValueError: they do.
    """
    if eval_every and num_rounds // eval_every != num_evals:
        raise ValueError(
            f"{where}: config says eval_every = {eval_every}, but there are {num_evals} evaluations of {num_rounds} "
            "rounds; say what the runs are run with, or leave it out."
        )


def _expected(eval_every: int, after: int, num_rounds: int | None, made: np.ndarray) -> np.ndarray:
    """The rounds of evaluations; only their distances where it is not known which rounds were made."""
    if not eval_every:
        return made[:0]
    if num_rounds is None:
        return made[:1] + eval_every * np.arange(len(made))
    return after + eval_every * np.arange(1, num_rounds // eval_every + 1)


def _length(values: Mapping[str, Any], what: str, entry: str, where: str) -> int | None:
    """How many entries all of them have."""
    shapes = {name: np.shape(value) for name, value in values.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) > 1 or () in lengths:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{where}: {what} needs one entry per {entry}, the same number of each; it has {listed}.")
    return lengths.pop()[0] if lengths else None


def _said(rounds: np.ndarray) -> str:
    listed = [str(round_) for round_ in rounds.tolist()]
    few = ", ".join(listed if len(listed) <= 4 else [*listed[:3], "…", listed[-1]])
    return f"evaluated after round{'s' * (len(listed) > 1)} {few}" if listed else "never evaluated"
