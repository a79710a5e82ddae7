"""Data-level attacks: what Byzantine workers train on."""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from byzjax import stacked
from byzjax.attacks._simple import none
from byzjax.base import Attack
from byzjax.checks import check_choice, check_integer, check_number
from byzjax.checks.traced import concrete
from byzjax.types import Batch, Numeric
from byzjax.values import value

Map = Literal["shift", "mirror"]


@value
def label_flip(map: Map = "shift", *, shift: int = 5, num_classes: int | None = None) -> Attack:
    """Label flip: Byzantine workers train honestly on wrong labels.

    ``y → (y + shift) mod C`` (``"shift"``: the text of the Byz-NSGDM paper, shift 5) or ``y → C − 1 − y``
    (``"mirror"``: its released code, ByzFL).

    Args:
      map: which map.
      shift: for ``"shift"``; may be traced.
      num_classes: C; by default the task's, and no other than that.

    Raises:
      ValueError: an unknown map, C < 2, a shift that is not an integer, or (when used) a shift that is 0 modulo C, a
        batch without a "label", a number of classes that nobody knows or that is not the task's.

    >>> batch = {"label": jnp.array([[3, 9], [3, 9]])}
    >>> flip = label_flip(num_classes=10)
    >>> flip.poison(batch, byzantine=jnp.array([False, True]), key=None)["label"].tolist()
    [[3, 9], [8, 4]]
    """
    check_choice(map, typing.get_args(Map), "map", "label_flip")
    check_number(shift, "shift", "label_flip")
    own = None if num_classes is None else check_integer(num_classes, "num_classes", "label_flip", least=2)
    if own is not None:
        _check_shift(map, shift, own)

    def poison(batch: Batch, *, byzantine: jax.Array, key: jax.Array | None, num_classes: int | None = None) -> Batch:
        del key
        if not isinstance(batch, dict) or "label" not in batch:
            raise ValueError(
                "label_flip: the task's batches have no 'label' to flip; use a classification task such as mnist."
            )
        classes = _agreed(own, num_classes)
        _check_shift(map, shift, classes)
        label = batch["label"]
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(f"label_flip: labels are {label.dtype}{list(label.shape)}; it flips numbers of classes.")
        wide = label.astype(jnp.int32)  # y + shift may be more than a byte
        wrong = (wide + shift) % classes if map == "shift" else classes - 1 - wide
        mask = stacked.per_row(byzantine, label)
        return {**batch, "label": jnp.where(mask, wrong.astype(label.dtype), label)}

    return none()._replace(poison=poison)


def _agreed(own: int | None, task: int | None) -> int:
    """C, as the attack or the task has it."""
    if own is not None and task is not None and own != task:
        raise ValueError(
            f"label_flip: num_classes = {own}, but the task has {task} classes, and labels would leave their range; "
            "leave num_classes out."
        )
    known = task if own is None else own
    if known is None:
        raise ValueError(
            "label_flip: the number of classes is not known; use label_flip(num_classes=…), or Task(num_classes=…)."
        )
    return check_integer(known, "num_classes" if own else "the task's num_classes", "label_flip", least=2)


def _check_shift(map: Map, shift: Numeric, num_classes: int) -> None:
    moved = concrete(shift, lambda known: _check_shift(map, known, num_classes))
    if map != "shift" or moved is None:
        return
    if moved != np.floor(moved):
        raise ValueError(f"label_flip: shift = {shift} must be an integer; labels are.")
    if moved % num_classes == 0:
        raise ValueError(
            f"label_flip: shift = {shift} changes no label modulo {num_classes}; use 1 … {num_classes - 1}."
        )
