"""The types that every other module speaks: rules, attacks, tasks and methods.

A *stacked* tree has the worker axis first in every leaf: leaves ``[n, *p]``. A bare ``[n, d]`` array is a
one-leaf tree, so the notation of the papers works as it stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import optax

from byzjax.checks import check_kind
from byzjax.checks.contracts import check_pair
from byzjax.estimator import Estimator
from byzjax.rng import check_key as check_key
from byzjax.stacked.explicit_axes import on_auto_axes, typed
from byzjax.types import Batch, Numeric, Params, Stacked
from byzjax.values import Value


class Coordinatewise(NamedTuple):
    """A rule that treats each coordinate alone: ``reduce: [n, d] -> [d]``."""

    reduce: Callable[[jax.Array], jax.Array]


class Weights(NamedTuple):
    """A rule that is a weighted sum of the rows: ``weights: (geometry, key) -> f32[n]``.

    With an ``anchor`` the rule also puts weight on a point that is not a row, and answers f32[n + 1], the anchor's
    weight last: ``"previous"`` is the rule's own last result (then it has a state, and the geometry's point n + 1 is
    that), ``"median"`` the coordinate-wise median of the rows, the centre of the geometry.

    A rule that only asks for ``geometry.squared_norms(about)`` says about what: ``"origin"``, ``"previous"`` or a row.
    Alone it then gets `Lengths`, which are cheaper than a `Geometry`.

    An ``affine`` rule has weights that sum to 1, asks for nothing but the rows and their median, and knows no absolute
    length: the origin is then not measured, which saves a tenth of the time. A rule that ``picks`` gives all its weight
    to one row: no other is read again.
    """

    weights: Callable[[Any, jax.Array | None], jax.Array]
    anchor: Literal["previous", "median"] | None = None
    about: Literal["origin", "previous"] | Numeric | None = None
    affine: bool = False
    picks: bool = False


class Mixing(NamedTuple):
    """A pre-aggregation that mixes rows: ``matrix: (geometry, key) -> f32[m, n]``.

    ``measures`` is false where the matrix only needs to know how many rows there are. ``affine`` as in `Weights`, of
    every row of the matrix.
    """

    matrix: Callable[[Any, jax.Array | None], jax.Array]
    measures: bool = True
    affine: bool = False


class Scaling(NamedTuple):
    """A pre-aggregation that scales rows by what their lengths are: ``factors: (geometry, key) -> f32[n]``."""

    factors: Callable[[Any, jax.Array | None], jax.Array]


Kernel = Coordinatewise | Weights | Mixing | Scaling


class Trust(NamedTuple):
    """Whom a rule trusted, where it is a combination of rows.

    Attributes:
      weights: f32[n], each worker's weight in the aggregate; None for rules that treat coordinates alone. What they
        lack to 1 lies on no worker: on the origin after clipping, on the last aggregate in centred clipping.
      mixing: f32[m, n], what the pre-aggregations made of the rows; None without any, or where they are not linear.
    """

    weights: jax.Array | None = None
    mixing: jax.Array | None = None


class _Link(Value, optax.GradientTransformationExtraArgs):
    """An optax link over stacked updates that may know its worker-space kernel.

    The kernel is what lets `byzjax.chain` fuse links: rules that only see the ``n × n`` geometry of the rows
    compose there, without ever forming a mixed stack. A link without one is simply called. A tree without leaves, which
    `optax.partition` and `optax.masked` make of a group that no parameter is in, passes as it is.

    Args:
      init: ``params -> state``.
      update: ``(updates, state, params, **extra) -> (updates, state)``.
      kernel: what the link is in worker space.
      update_with_trust: in place of ``update``, a function that also returns a `Trust`.
      links: what a chain is made of.
    """

    kernel: Kernel | None = None  # the class's own are what `_replace` leaves
    _update_with_trust: Callable[..., tuple[Any, Any, Trust]] | None = None
    _links: tuple[Any, ...] = ()
    rows: tuple[None, ...] = ()  # the axes before those of the parameters in what a link returns

    def __new__(
        cls,
        init: Callable,
        update: Callable | None = None,
        kernel: Kernel | None = None,
        *,
        update_with_trust: Callable | None = None,
        links: tuple[Any, ...] = (),
    ):
        if update is None:
            assert update_with_trust is not None
            update = _without_trust(update_with_trust)
        self = super().__new__(cls, init, _on_any_tree(update, cls.rows))
        self.kernel, self._links = kernel, links
        if update_with_trust is not None:
            self._update_with_trust = _on_any_tree(update_with_trust, cls.rows, Trust())
        return self

    def update_with_trust(
        self, updates: Stacked, state: Any, params: Params | None = None, **extra
    ) -> tuple[Any, Any, Trust]:
        """``update`` that also tells whom it trusted."""
        if self._update_with_trust is None:
            answer = self.update(updates, state, params, **extra)
            return (*check_pair(answer, f"{type(self).__name__}.update", wanted="(updates, state)"), Trust())
        return self._update_with_trust(updates, state, params, **extra)

    @property
    def links(self) -> tuple[Any, ...]:
        """The links of a chain; of another link, itself."""
        return self._links or (self,)


def _takes(function: Callable, argument: str) -> bool:
    """Whether a function takes an argument by this name, as far as can be seen."""
    try:
        takes = inspect.signature(function, follow_wrapped=False).parameters
    except (TypeError, ValueError):
        return True
    return argument in takes or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())


def _without_trust(update_with_trust: Callable) -> Callable:
    told = _takes(update_with_trust, "estimator")

    def update(updates, state, params=None, **extra):
        if not told:
            extra.pop("estimator", None)
        return update_with_trust(updates, state, params, **extra)[:2]

    return update


def _on_any_tree(function: Callable, rows: tuple[None, ...], *more: Any) -> Callable:
    """A link's function of stacks, which lets a tree without leaves pass, and knows only axes of type Auto.

    It is told what the workers' estimator remembers, ``estimator``, if it takes that.
    """
    told = _takes(function, "estimator")

    def guarded(updates, state, params=None, **extra):
        if not told:
            extra.pop("estimator", None)
        if not jax.tree.leaves(updates):
            return updates, state, *more

        def gives(sharding):
            return typed(updates, sharding, 1, rows), typed(state, sharding), *(sharding() for _ in more)

        return on_auto_axes(function, (updates, state, params), extra, gives)

    return guarded


# Where optax has a class of the same name and contract, ours is one.
if TYPE_CHECKING:
    _AggregatorOfOptax = optax.GradientTransformationExtraArgs
else:
    _AggregatorOfOptax = getattr(
        getattr(optax.experimental, "aggregating", None), "Aggregator", optax.GradientTransformationExtraArgs
    )


class Aggregator(_Link, _AggregatorOfOptax):
    """A rule: ``[n, *p] -> [*p]``; an `optax.experimental.aggregating.Aggregator` where optax has that.

    ``init(params) -> state`` and ``update(updates, state, params=None, *, key=None, **extra) -> (aggregate, state)``.
    """


class PreAggregator(_Link):
    """A pre-aggregation: ``[n, *p] -> [m, *p]``, with the signatures of `Aggregator`."""

    rows = (None,)


def unchanged_updates(updates: Stacked, state: Any, params: Params | None = None, **extra) -> tuple[Stacked, Any]:
    """An attack that sends what workers computed."""
    del params, extra
    return updates, state


def unchanged_batch(batch: Batch, *, byzantine: jax.Array, key: jax.Array) -> Batch:
    """An attack that leaves the data alone."""
    del byzantine, key
    return batch


class _AttackFields(NamedTuple):
    init: Callable[..., Any]
    update: Callable[..., tuple[Stacked, Any]]
    poison: Callable[..., Batch] = unchanged_batch


class Attack(Value, _AttackFields):
    """What Byzantine workers do. Only rows where ``byzantine`` is true are rewritten; a round sees to that.

    Attributes:
      init: ``(params, num_workers) -> state``.
      update: ``(updates, state, params, *, byzantine, key, grads, aggregate, **extra) -> (updates, state)``;
        ``updates`` is what workers would honestly send, ``grads`` their raw gradients, ``aggregate`` the server's
        rule as a function of a stack.
      poison: ``(batch, *, byzantine, key) -> batch``, data-level; the identity by default. One that also takes
        ``num_classes`` is told the task's.
    """

    def poisoned(self, batch: Batch, *, num_classes: int | None, **extra: Any) -> Batch:
        """The batch after ``poison``, which is told the number of classes if it takes it."""
        if _takes(self.poison, "num_classes"):
            extra["num_classes"] = num_classes
        return self.poison(batch, **extra)


class _MethodFields(NamedTuple):
    worker: optax.GradientTransformation
    aggregator: Aggregator
    server: optax.GradientTransformation
    initial: dict[str, Stacked] | None = None
    estimator: Estimator | None = None


class Method(Value, _MethodFields):
    """A distributed optimiser: what workers do, how the server aggregates, how it steps.

    Both transformations remember floats of 16 bits in float32, unless an ``accumulator_dtype`` of their own says
    otherwise. The server's is passed ``value=``, the honest workers' mean loss on their batches, and ``grad=``, the
    aggregate; a worker's its own. A loss at other parameters, as a line search needs it, cannot be had.

    Attributes:
      worker: a transformation applied to every worker's gradient, under ``vmap``.
      aggregator: the rule.
      server: a transformation of the aggregate; it contains the learning rate and its sign.
      initial: optional ``{state field: leaves [n, *p]}`` that replaces fields of the workers' initial states, as in
        ``{"ema": v0}`` for the initial momenta of Algorithm 1.
      estimator: how workers estimate the gradients that their transformation is given; by default by the gradient of
        the round's batch.
    """


def check_rule(value: Any, argument: str, where: str) -> Aggregator:
    """Reject what is no `Aggregator`; returns it."""
    fix = (
        "call a factory such as median(), and end pre-aggregations with a rule: "
        "byzjax.chain(nnm(f=3), geometric_median())."
    )
    return check_kind(value, Aggregator, argument, where, fix=fix)
