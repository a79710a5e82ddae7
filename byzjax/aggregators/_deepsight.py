"""A rule that looks inside the model: at its output layer and at what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._cluster_algorithms import hdbscan
from byzjax.aggregators._norms import shortening
from byzjax.base import Aggregator, Trust
from byzjax.checks import check_integer, check_number, nan_unless, num_workers_of
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked.control_flow import scan
from byzjax.stacked.coordinate_axis import of_a_part
from byzjax.stacked.cosines import cosine_distances, exponents, shifted
from byzjax.stacked.order_statistics import median_of
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value

_MOST_INPUTS = 500  # that are predicted at a time, which bounds the memory
_ROUNDED = 4.0  # roundings between the shares of two parallel rows, of which none is nearer to another by chance
_LARGEST_RATIO = 80.0  # of probabilities, as a logarithm: its square is a number yet

Predict = Callable[[Any, jax.Array], jax.Array]  # (params, inputs) -> logits


@promises(translation=False, layerwise=True, robust=False)
@value
def deepsight(
    *,
    output: str | None = None,
    predict: Predict | None = None,
    input_shape: Sequence[int] = (),
    step: Numeric = 1.0,
    num_samples: int = 20_000,
    num_seeds: int = 3,
    threshold_factor: Numeric = 0.01,
    share: Numeric = 1 / 3,
    min_cluster_size: Numeric = 5,
    min_samples: Numeric = 3,
) -> Aggregator:
    """DeepSight: workers clustered by what they do to the output layer; clusters of narrow updates are left out.

    With energies ``ε_ic = |b_ic| + Σ_h |w_ihc|`` of the output layer's update for class c, three views of a worker:

    - ``C_ic = ε_ic²/Σ_c ε_ic²``, its normalised energies;
    - the direction of the bias's update, by cosine distances;
    - ``D_ic``, the mean over random inputs of the probability that its model gives class c, divided by the global
      model's; S times.

    Each is clustered by HDBSCAN. Two workers are as far apart as the share of views, the S counted as one, in which
    they are in different clusters, and HDBSCAN of these distances decides. A worker is suspicious if no more than half
    the median number of its ``C_ic`` exceed ``max(θ, 1/P) max_c C_ic``. The result is the mean of the rows, shortened
    to the median norm of all, in clusters with a share of suspicious workers below τ: zero, which means no step, if
    there is none.

    Args:
      output: where the output layer is in the parameters, as in ``"dense2"`` or ``"head/out"``: its leaf of one
        dimension is the bias, those that end in as many numbers are weights. By default the last leaf of one dimension,
        and the last that ends in as many numbers.
      predict: ``(params, inputs) -> logits``, as in ``models.mlp().apply``. None leaves D out.
      input_shape: of one input of ``predict``; inputs are uniform in [0, 1).
      step: the model of worker i is ``params + step x_i``: 1 where rows are differences of models, minus the learning
        rate where they are gradients; may be traced.
      num_samples: at least so many random inputs for each D, predicted 500 at a time; 20 000 in the paper.
      num_seeds: S; 3 in the paper.
      threshold_factor: θ, may be traced; 0.01 in the paper. P is the number of classes.
      share: τ > 0, may be traced; 1/3 in the paper. Above 1 nobody is suspicious enough.
      min_cluster_size, min_samples: of HDBSCAN, see `byzjax.aggregators._cluster_algorithms.hdbscan`; may be traced.

    Shapes: leaves ``[n, *p] -> [*p]``. With ``predict``, ``update`` needs ``params`` and a key. A row with NaN or inf
    is in no cluster.

    Raises:
      ValueError: an argument out of range, no output layer, no params or no key, or no logits ``[M, P]``.

    Rieger, Nguyen, Miettinen, Sadeghi. DeepSight: mitigating backdoor attacks in federated learning through deep model
    inspection. NDSS 2022.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 1.1, 0.9]] * 6 + [[9.0, 0.0, 0.1]] * 3)
    >>> rule = deepsight(min_cluster_size=3, min_samples=1)
    >>> (byzjax.aggregate(rule, x, return_weights=True)[1] > 0).tolist()
    [True, True, True, True, True, True, False, False, False]
    """
    name = "deepsight"
    if predict is not None and not callable(predict):
        raise ValueError(f"{name}: predict = {predict!r} must be a function (params, inputs) -> logits.")
    if output is not None and not isinstance(output, str):
        raise ValueError(f"{name}: output = {output!r} must be a path in the parameters, as in 'dense2', or None.")
    if not isinstance(input_shape, Sequence) or not all(isinstance(k, int) and k > 0 for k in input_shape):
        raise ValueError(f"{name}: input_shape = {input_shape!r} must be a tuple of positive integers, as in (28, 28).")
    check_number(step, "step", name)
    num_samples = check_integer(num_samples, "num_samples", name, least=1)
    num_seeds = check_integer(num_seeds, "num_seeds", name, least=1)
    check_number(threshold_factor, "threshold_factor", name, least=0, below=1)
    check_number(share, "share", name, least=0, open_below=True)
    check_number(min_cluster_size, "min_cluster_size", name, least=2)
    check_number(min_samples, "min_samples", name, least=1)

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del extra
        num_workers_of(updates)
        if of_a_part():
            raise ValueError(f"{name}: looks at whole output layers, and here every device has a part of each.")
        weights, bias = output_layer(updates, output)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        finite = lengths.finite
        shares = energy_shares(weights, bias, finite)

        def apart(distances: jax.Array) -> jax.Array:
            label = hdbscan(distances, finite, min_cluster_size=min_cluster_size, min_samples=min_samples)
            return (label[:, None] != label[None, :]).astype(shares.dtype)

        energies = _euclidean(shares)
        energies = jnp.where(energies > _ROUNDED * jnp.finfo(shares.dtype).eps, energies, 0.0)
        views = [apart(energies), apart(cosine_distances(bias))]
        if predict is not None:
            if params is None:
                raise ValueError(f"{name}: needs the parameters of the round; pass params to update.")
            if jax.tree.map(jnp.shape, params) != jax.tree.map(lambda x: x.shape[1:], updates):
                raise ValueError(f"{name}: the parameters have other leaves or shapes than the updates' rows.")
            key = check_key(key, name)
            ratios = [
                probability_ratios(predict, params, updates, step, input_shape, num_samples, jax.random.fold_in(key, s))
                for s in range(num_seeds)
            ]
            views.append(jnp.stack([apart(_euclidean(ratio)) for ratio in ratios]).mean(0))
        label = hdbscan(
            jnp.stack(views).mean(0), finite, min_cluster_size=min_cluster_size, min_samples=min_samples, single=True
        )
        broad = _broad(shares, threshold_factor)
        middle = median_of(jnp.where(finite, broad, jnp.inf), finite)
        suspicious = (broad <= 0.5 * middle) & (middle > 0)  # nobody where the layer stands still
        together = (label[:, None] == label[None, :]) & (label >= 0)[:, None]
        size, doubted = together.sum(1), (together & suspicious[None, :]).sum(1)
        dtype = lengths.unit.dtype
        good = (label >= 0) & (doubted.astype(dtype) < jnp.asarray(share, dtype) * size.astype(dtype))
        middle = median_of(jnp.sqrt(lengths.squared_norms()), finite)
        factors = jnp.where(good, shortening(lengths, middle), 0.0)
        valid = finite.any() & (min_cluster_size >= 2) & (min_samples >= 1)
        factors = factors / jnp.maximum(good.sum(), 1).astype(dtype) * nan_unless(valid)
        return stacked.combine(factors, updates, frame), state, Trust(factors)

    return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)


def output_layer(updates: Stacked, where: str | None = None) -> tuple[list[jax.Array], jax.Array]:
    """The output layer's weights, leaves ``[n, …, P]``, and its bias, ``[n, P]``; see `deepsight`.

    Raises:
      ValueError: nothing there, not one bias, or a single output.

    >>> layer = {"kernel": jnp.zeros((5, 4, 3)), "bias": jnp.zeros((5, 3))}
    >>> weights, bias = output_layer({"a": {"bias": jnp.zeros((5, 4))}, "b": layer})
    >>> weights[0].shape, bias.shape
    ((5, 4, 3), (5, 3))
    """
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(updates)[0]
    }
    here = {
        path: leaf for path, leaf in paths.items() if where is None or f"{path}/".startswith(where.rstrip("/") + "/")
    }
    vectors = [leaf for leaf in here.values() if leaf.ndim == 2]
    if not vectors or (where is not None and len(vectors) > 1):
        raise ValueError(
            f"deepsight: output = {where!r} has {len(vectors)} leaves of one dimension, but needs one, the bias of the "
            f"output layer; the leaves are {list(paths)}."
        )
    bias = vectors[-1]
    if bias.shape[1] < 2:
        raise ValueError(f"deepsight: the output layer has {bias.shape[1]} outputs, but needs a class to compare with.")
    weights = [leaf for leaf in here.values() if leaf.ndim > 2 and leaf.shape[-1] == bias.shape[1]]
    return (weights if where is not None else weights[-1:]), bias


def energy_shares(weights: Sequence[jax.Array], bias: jax.Array, present: jax.Array) -> jax.Array:
    """``ε_ic²/Σ_c ε_ic²``, f32[n, P]; zero for rows without energy, and for those that are not present.

    >>> energy_shares([jnp.array([[[1.0, 0.0], [-1.0, 0.0]]])], jnp.array([[0.0, 2.0]]), jnp.ones(1, bool)).tolist()
    [[0.5, 0.5]]
    """
    layer = [*weights, bias]
    dtype = stacked.wide_dtype(layer)
    layer = [jnp.where(stacked.per_row(present, x), x.astype(dtype), 0.0) for x in layer]
    # Every row in its own unit, so that no square leaves the range of numbers.
    layer = shifted(layer, -exponents(stacked.largest_coordinates(layer)))
    energies = [jnp.abs(x).sum(tuple(range(1, x.ndim - 1))) for x in jax.tree.leaves(layer)]
    squares = jnp.square(jnp.stack(energies).sum(0))
    total = squares.sum(1, keepdims=True)
    return squares / jnp.where(total > 0, total, 1.0)


def probability_ratios(
    predict: Predict,
    params: Params,
    updates: Stacked,
    step: Numeric,
    input_shape: Sequence[int],
    num_samples: int,
    key: jax.Array,
) -> jax.Array:
    """``(1/M) Σ_m p(params + step x_i, s_m)_c / p(params, s_m)_c`` for M random inputs s, f32[n, P].

    >>> predict = lambda w, inputs: inputs @ w
    >>> w, x = jnp.zeros((1, 2)), jnp.array([[[0.0, 0.0]], [[9.0, 0.0]]])
    >>> ratios = probability_ratios(predict, w, x, 1.0, (1,), 500, jax.random.key(0))
    >>> ratios[0].tolist(), bool(ratios[1, 0] > 1.5)
    ([1.0, 1.0], True)
    """
    dtype = stacked.wide_dtype(jax.tree.leaves(params))
    turns = -(-num_samples // _MOST_INPUTS)
    size = -(-num_samples // turns)

    def logits(point: Params, inputs: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(predict(point, inputs).astype(dtype))

    def turn(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        inputs = jax.random.uniform(key, (size, *input_shape), dtype)
        before = logits(params, inputs)

        def ratio(row: Params) -> jax.Array:
            moved = jax.tree.map(lambda p, x: p + jnp.asarray(step, p.dtype) * x.astype(p.dtype), params, row)
            gain = jnp.minimum(logits(moved, inputs) - before, _LARGEST_RATIO)
            return jnp.exp(jnp.where(gain == gain, gain, _LARGEST_RATIO)).mean(0)

        return total + jax.lax.map(ratio, updates) / turns, None

    shape = getattr(jax.eval_shape(predict, params, jax.ShapeDtypeStruct((size, *input_shape), dtype)), "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != size:
        raise ValueError(
            f"deepsight: predict makes {shape} of inputs {[size, *input_shape]}; it must make logits [{size}, P]."
        )
    start = jnp.zeros((num_workers_of(updates), shape[1]), dtype)
    return scan(turn, start, jax.random.split(key, turns))[0]


def _broad(shares: jax.Array, factor: Numeric) -> jax.Array:
    """How many classes have more than so large a part of the largest share, as floats, f32[n]."""
    least = jnp.maximum(jnp.asarray(factor, shares.dtype), 1.0 / shares.shape[1])
    return (shares > least * shares.max(1, keepdims=True)).sum(1).astype(shares.dtype)


def _euclidean(points: jax.Array) -> jax.Array:
    geometry, _ = stacked.measure(points, origin=False)
    return jnp.sqrt(geometry.distances) * geometry.unit
