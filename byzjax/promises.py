"""What rules and attacks promise, said at their factories: the contract tests check exactly that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Traits(NamedTuple):
    """What a rule or attack promises. The contract tests check exactly these promises."""

    permutation: bool = True  # permuting workers leaves an aggregate alone, and permutes a pre-aggregation
    translation: bool = True  # rule(x + a) = rule(x) + a
    scale: bool = True  # rule(c x) = c rule(x)
    robust: bool = True  # f hostile rows cannot drive the result away
    averaging: bool = True  # equal rows give that row
    stochastic: bool = False  # needs a key
    noisy: bool = False  # adds noise, which depends on dtypes and tree structure
    layerwise: bool = False  # judges every leaf by itself: a pytree is more than its matrix
    static_f: bool = False  # f must be a Python integer
    adaptive: bool = False  # an attack that reads what honest workers sent
    workers_needed: tuple[int, int] = (2, 1)  # (a, b): a rule for f Byzantine workers needs n ≥ a f + b
    fragile: tuple[str, ...] = ()  # variants, as "option=value", that are not robust although the default is
    lossy: tuple[str, ...] = ()  # variants that are not averaging although the default is


def promises(**traits: Any) -> Callable[[Callable], Callable]:
    """Attach `Traits` to a factory.

    >>> @promises(robust=False)
    ... def mean(): ...
    >>> traits_of(mean).robust
    False
    """

    def attach(factory: Callable) -> Callable:
        factory.traits = Traits(**traits)  # type: ignore[attr-defined]
        return factory

    return attach


def traits_of(factory: Callable) -> Traits:
    """The promises of a factory; `Traits()` unless it was declared otherwise."""
    return getattr(factory, "traits", Traits())
