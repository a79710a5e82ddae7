"""Models as pure functions: flax nnx behind a small adapter, parameters as plain nested dicts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from byzjax.base import Params


class Model(NamedTuple):
    """``init: (key) -> params`` and ``apply: (params, inputs) -> outputs``.

    ``stochastic`` models (those with dropout) also take ``apply(params, inputs, key=key)`` in training; without a key
    they are deterministic, as in evaluation.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    stochastic: bool = False


def functional(build: Callable[[Any], Any], *, stochastic: bool = False) -> Model:
    """A flax nnx module as two pure functions, split once.

    Args:
      build: ``(rngs: nnx.Rngs) -> nnx.Module``, whose state consists of parameters alone.
      stochastic: the module is called with ``rngs=nnx.Rngs(dropout=key)`` where there is a key, and with ``rngs=None``
        otherwise. Its dropout layers are built without random streams of their own.

    Returns:
      A `Model`; its params are nested dicts of arrays, which ``vmap``, optax and checkpoints understand.

    Raises:
      ValueError: the module holds state other than parameters (batch statistics would be a side channel between
        workers that no rule aggregates).
    """
    from flax import nnx

    skeleton = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph, params, rest = nnx.split(skeleton, nnx.Param, ...)
    other = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]
    if other:
        raise ValueError(
            f"functional: the model holds state besides parameters: {other}; use LayerNorm, not BatchNorm."
        )

    def init(key: jax.Array) -> Params:
        module = build(nnx.Rngs(params=key))
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    def apply(values: Params, *inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        state = jax.tree.map(lambda leaf: leaf, params)
        nnx.replace_by_pure_dict(state, values)  # type: ignore[arg-type]
        module = nnx.merge(graph, state)
        if not stochastic:
            return module(*inputs)
        return module(*inputs, rngs=None if key is None else nnx.Rngs(dropout=key))

    return Model(init, apply, stochastic)


def mlp(sizes: Sequence[int] = (784, 128, 64, 10)) -> Model:
    """A multi-layer perceptron with ReLU; the paper's is 784-128-64-10, 109 386 parameters.

    LeCun-normal weights, zero biases. Inputs ``f32[B, …]`` are flattened to ``sizes[0]``.

    >>> model = mlp((4, 3, 2))
    >>> model.apply(model.init(jax.random.key(0)), jax.numpy.ones((5, 2, 2))).shape
    (5, 2)
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"mlp: sizes = {tuple(sizes)} must be at least two positive layer widths.")
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            for layer, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
                setattr(self, f"dense{layer}", nnx.Linear(wide, narrow, rngs=rngs))

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x.reshape(x.shape[0], -1)
            for layer in range(len(sizes) - 1):
                x = getattr(self, f"dense{layer}")(x)
                x = x if layer == len(sizes) - 2 else jax.nn.relu(x)
            return x

    return functional(MLP)


MODELS: dict[str, Callable[[], Model]] = {"mlp": mlp}
