"""Data-level attacks: what Byzantine workers train on."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from byzjax.attacks.simple import none
from byzjax.base import Attack, Batch, concrete


def label_flip(map: Literal["shift", "mirror"] = "shift", *, shift: int = 5, num_classes: int = 10) -> Attack:
    """Label flip: Byzantine workers train honestly on wrong labels.

    ``y → (y + shift) mod C`` (``"shift"``: the text of the Byz-NSGDM paper, shift 5) or ``y → C − 1 − y``
    (``"mirror"``: its released code, ByzFL).

    Args:
      map: which map.
      shift: for ``"shift"``; may be traced.
      num_classes: C.

    Raises:
      ValueError: an unknown map, a shift that is 0 modulo C, C < 2, or (when used) a batch without a "label".

    >>> batch = {"label": jnp.array([[3, 9], [3, 9]])}
    >>> label_flip().poison(batch, byzantine=jnp.array([False, True]), key=None)["label"].tolist()
    [[3, 9], [8, 4]]
    """
    if map not in ("shift", "mirror"):
        raise ValueError(f"label_flip: map = {map!r} must be 'shift' or 'mirror'.")
    if num_classes < 2:
        raise ValueError(f"label_flip: num_classes = {num_classes} must be at least 2.")
    moved = concrete(shift, lambda known: label_flip(map=map, shift=known, num_classes=num_classes))
    if map == "shift" and moved is not None and moved % num_classes == 0:
        raise ValueError(
            f"label_flip: shift = {shift} changes no label modulo {num_classes}; use 1 … {num_classes - 1}."
        )

    def poison(batch: Batch, *, byzantine: jax.Array, key: jax.Array | None) -> Batch:
        del key
        if not isinstance(batch, dict) or "label" not in batch:
            raise ValueError(
                "label_flip: the task's batches have no 'label' to flip; use a classification task such as mnist."
            )
        label = batch["label"]
        wrong = (label + shift) % num_classes if map == "shift" else num_classes - 1 - label
        mask = byzantine.reshape((-1,) + (1,) * (label.ndim - 1))
        return {**batch, "label": jnp.where(mask, wrong.astype(label.dtype), label)}

    return none()._replace(poison=poison)
