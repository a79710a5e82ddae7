"""Models as pure functions: flax nnx behind a small adapter, parameters as plain nested dicts."""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.checks import check_choice, check_integer, check_kind
from byzjax.types import Params

Init = Literal["torch", "lecun"]


class Model(NamedTuple):
    """``init: (key) -> params`` and ``apply: (params, inputs) -> outputs``.

    ``stochastic`` models (those with dropout) also take ``apply(params, inputs, key=key)`` in training; without a key
    they are deterministic, as in evaluation. ``eval_batch`` inputs are evaluated at a time, which bounds the memory.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    stochastic: bool = False
    eval_batch: int = 1000


def check_model(model: Any, where: str) -> None:
    """Reject what is neither a name nor a `Model`.

    Raises:
      ValueError: it is something else, a module of flax for instance.
    """
    fix = (
        "make one of a flax nnx module with byzjax.tasks.models.functional(lambda rngs: Net(rngs=rngs)), or of any "
        "functions with Model(init, apply)."
    )
    check_kind(model, (str, Model), "model", where, fix=fix)
    if isinstance(model, Model):
        for argument in ("init", "apply"):
            check_kind(getattr(model, argument), Callable, argument, f"{where}: Model", fix="pass a function.")  # type: ignore[arg-type]
        check_integer(model.eval_batch, "eval_batch", f"{where}: Model", least=1)


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
        workers that no rule aggregates), or what is built is no nnx module.
    """
    from flax import linen, nnx

    fix = "pass a function that builds an nnx module, lambda rngs: Net(rngs=rngs)."
    check_kind(build, Callable, "build", "functional", fix=fix)  # type: ignore[arg-type]
    if isinstance(build, nnx.Module | linen.Module):  # they can be called, too
        check_kind(build, types.FunctionType, "build", "functional", fix=fix)
    skeleton = nnx.eval_shape(lambda: check_kind(build(nnx.Rngs(0)), nnx.Module, "build(rngs)", "functional", fix=fix))
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

    LeCun-normal weights, zero biases. Inputs ``f32[B, …]`` are flattened to ``sizes[0]``. Plain functions that draw and
    compute what layers of flax would, without the time that takes to import.

    >>> model = mlp((4, 3, 2))
    >>> model.apply(model.init(jax.random.key(0)), jax.numpy.ones((5, 2, 2))).shape
    (5, 2)
    """
    sizes = _sizes(sizes, "sizes", "mlp", fix="pass layer widths, e.g. (784, 128, 64, 10).")
    if len(sizes) < 2:
        raise ValueError(f"mlp: sizes = {sizes} must be at least two positive layer widths.")
    layers = {f"dense{layer}": shape for layer, shape in enumerate(itertools.pairwise(sizes))}

    def init(key: jax.Array) -> Params:
        draw = jax.nn.initializers.lecun_normal()
        # The keys with which flax's layers are drawn: one for each kernel, one for each bias.
        return {
            name: {
                "kernel": draw(jax.random.fold_in(key, 2 * layer), shape, jnp.float32),
                "bias": jnp.zeros(shape[1], jnp.float32),
            }
            for layer, (name, shape) in enumerate(layers.items())
        }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for layer, name in enumerate(layers):
            x = x @ params[name]["kernel"] + params[name]["bias"][None]
            x = x if layer == len(layers) - 1 else jax.nn.relu(x)
        return x

    return Model(init, apply)


def cnn(num_classes: int = 10, shape: Sequence[int] = (28, 28), *, init: Init = "torch") -> Model:
    """A convolutional network with dropout: the one that the released code of the Byz-NSGDM paper trains on MNIST.

    Convolution 3 × 3 × 32, ReLU, convolution 3 × 3 × 64 (no ReLU), max-pooling 2 × 2, dropout of whole channels (0.25),
    dense 128, ReLU, dropout (0.5), dense. Convolutions are not padded. Of 28 × 28 grey pixels: 1 199 882 parameters.

    Args:
      num_classes: C.
      shape: of one image, ``(height, width)`` or ``(height, width, channels)``; height and width at least 6.
      init: ``"torch"``, weights and biases uniform in ±1/√fan_in, as PyTorch's layers are by default; ``"lecun"``,
        LeCun-normal weights and zero biases, as flax's are.

    Raises:
      ValueError: images too small, fewer than two classes, an unknown ``init``.

    >>> model = cnn()
    >>> sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
    1199882
    """
    shape = _sizes(shape, "shape", "cnn", fix="pass (height, width) or (height, width, channels).")
    if len(shape) not in (2, 3) or min(shape[:2]) < 6:
        raise ValueError(f"cnn: shape = {shape} must be (height, width) or (height, width, channels), at least 6 × 6.")
    num_classes = check_integer(num_classes, "num_classes", "cnn", least=2)
    check_choice(init, typing.get_args(Init), "init", "cnn")
    from flax import nnx

    height, width = (shape[0] - 4) // 2, (shape[1] - 4) // 2
    channels = shape[2] if len(shape) == 3 else 1

    def initialisers(fan_in: int) -> dict[str, Any]:
        if init == "lecun":
            return {}

        def uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None):
            del out_sharding
            return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

        return {"kernel_init": uniform, "bias_init": uniform}

    class CNN(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            def conv(before: int, after: int) -> nnx.Conv:
                return nnx.Conv(
                    before,
                    after,
                    (3, 3),
                    padding="VALID",
                    conv_general_dilated=_convolve,
                    rngs=rngs,
                    **initialisers(9 * before),
                )

            def dense(before: int, after: int) -> nnx.Linear:
                return nnx.Linear(before, after, rngs=rngs, **initialisers(before))

            self.conv0, self.conv1 = conv(channels, 32), conv(32, 64)
            self.dense0, self.dense1 = dense(height * width * 64, 128), dense(128, num_classes)
            self.channel_dropout = nnx.Dropout(0.25, broadcast_dims=(1, 2))
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
            exact = rngs is None
            x = x.reshape(x.shape[0], *shape[:2], channels)
            x = self.conv1(jax.nn.relu(self.conv0(x)))
            x = x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2, 64).max((2, 4))
            x = self.channel_dropout(x, deterministic=exact, rngs=rngs).reshape(x.shape[0], -1)
            x = self.dropout(jax.nn.relu(self.dense0(x)), deterministic=exact, rngs=rngs)
            return self.dense1(x)

    return functional(CNN, stochastic=True)._replace(eval_batch=50)


def _sizes(values: Any, argument: str, where: str, *, fix: str) -> tuple[int, ...]:
    check_kind(values, (Sequence, np.ndarray), argument, where, fix=fix)
    return tuple(check_integer(value, f"{argument}[{place}]", where, least=1) for place, value in enumerate(values))


def _convolve(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Convolution without padding: ``[B, h, w, c], [3, 3, c, k] -> [B, h−2, w−2, k]``, as one matrix product.

    Under ``vmap`` over workers the gradient of a convolution becomes a grouped convolution, which takes eleven times as
    long on a CPU as a batched matrix product.
    """
    rows, columns = kernel.shape[:2]
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    patches = [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


# Of one image's shape and the number of classes.
MODELS: dict[str, Callable[[Sequence[int], int], Model]] = {
    "mlp": lambda shape, num_classes: mlp((math.prod(shape), 128, 64, num_classes)),
    "cnn": lambda shape, num_classes: cnn(num_classes, shape),
}
