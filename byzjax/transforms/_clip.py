"""A longest step."""

from __future__ import annotations

from byzjax.checks import number_or_nan
from byzjax.transforms._link import Link, stateless
from byzjax.transforms._normalize import clipped
from byzjax.types import Numeric
from byzjax.values import value


@value
def clip_by_global_norm(threshold: Numeric) -> Link:
    """An optax link: ``u ← min(1, λ/‖v‖) v`` over all parameters jointly.

    Unlike `optax.clip_by_global_norm` it is exact where squares under- or overflow: that gives 0 for ‖v‖ > 2·10¹⁹ in
    float32. All of u is NaN where v has a NaN; of ±∞ those entries are, and the others 0.

    Args:
      threshold: λ > 0, may be traced; all of u is NaN where it is traced and ≤ 0.

    Raises:
      ValueError: λ ≤ 0 or not finite; leaves of integers.

    >>> import jax.numpy as jnp
    >>> tx = clip_by_global_norm(0.5)
    >>> tx.update(jnp.array([3e25, 4e25]), tx.init(jnp.zeros(2)))[0].round(3).tolist()
    [0.30000001192092896, 0.4000000059604645]
    """
    where = "clip_by_global_norm"
    longest = number_or_nan(threshold, "threshold", where, least=0, open_below=True)
    return stateless(lambda updates: clipped(updates, longest), where)
