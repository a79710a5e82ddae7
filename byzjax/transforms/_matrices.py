"""Which leaves of a tree are matrices, and of which axes: kernels of convolutions, heads of attention."""

from __future__ import annotations

import collections
import math
import re
from typing import Any, NamedTuple

import jax
import optax

from byzjax.checks import shown
from byzjax.types import Params

Axes = optax.contrib.MuonDimensionNumbers
DimensionNumbers = Any  # a tree of `Axes` and None, a prefix of the parameters'; a function of those; "flax"; None

_ATTENTION = ("query", "key", "value")
_HELD = tuple(map(jax.tree_util.GetAttrKey, ("value", "raw_value")))


class Layout(NamedTuple):
    """A leaf as matrices ``[b, d_in, d_out]``.

    Attributes:
      order: the axes of the leaf: those of different matrices, of inputs, of outputs.
      shape: of the leaf in that order.
      matrices: (b, d_in, d_out).
      channels: the last of the input axes alone, the rest being the window of a convolution.
    """

    order: tuple[int, ...]
    shape: tuple[int, ...]
    matrices: tuple[int, int, int]
    channels: int

    @property
    def d_in(self) -> int:
        """Inputs."""
        return self.matrices[1]

    @property
    def d_out(self) -> int:
        """Outputs."""
        return self.matrices[2]

    def of(self, leaf: jax.Array) -> jax.Array:
        """``[*p] -> [b, d_in, d_out]``."""
        return leaf.transpose(self.order).reshape(self.matrices)

    def back(self, matrices: jax.Array) -> jax.Array:
        """``[b, d_in, d_out] -> [*p]``."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return matrices.reshape(self.shape).transpose(inverse)


def layouts(tree: Params, dimension_numbers: DimensionNumbers, where: str) -> list[Layout | None]:
    """Of every leaf its matrices; None for a vector.

    Args:
      tree: parameters, or updates like them.
      dimension_numbers: `Axes` of every leaf, None for vectors: a tree, a prefix of it, or a function of the tree;
        ``"flax"`` for `flax_matrices`. None for: leaves of two axes are matrices ``[d_in, d_out]``, of fewer vectors.
      where: the function that got it.

    Raises:
      ValueError: a leaf of more axes that nothing is said of, or axes that it does not have.
    """
    rule = flax_matrices if isinstance(dimension_numbers, str) and dimension_numbers == "flax" else dimension_numbers
    said = rule(tree) if callable(rule) else rule
    known = None
    if said is not None:
        leaves = jax.tree.leaves_with_path(said, is_leaf=lambda one: one is None or isinstance(one, Axes))
        known = {tuple(map(str, path)): axes for path, axes in leaves}
    return [_layout(path, leaf, known, where) for path, leaf in jax.tree.leaves_with_path(tree)]


def _layout(path: Any, leaf: jax.Array, known: dict[tuple[str, ...], Any] | None, where: str) -> Layout | None:
    name = f"leaf {jax.tree_util.keystr(path) or 'x'} of shape {leaf.shape}"
    if known is None:
        if leaf.ndim < 2:
            return None
        if leaf.ndim > 2:
            raise ValueError(
                f"{where}: {name} is no matrix; say which axes are inputs and outputs, "
                "dimension_numbers='flax' for models of flax."
            )
        axes = Axes()
    else:
        keys = tuple(map(str, path))
        prefix = next((keys[:k] for k in range(len(keys), -1, -1) if keys[:k] in known), None)
        if prefix is None:
            raise ValueError(f"{where}: dimension_numbers say nothing of {name}; give its axes, or None for a vector.")
        axes = known[prefix]
        if axes is None:
            return None
        if not isinstance(axes, Axes):
            raise ValueError(
                f"{where}: dimension_numbers = {shown(axes)} for {name} must be 'flax', None, or "
                "optax.contrib.MuonDimensionNumbers, for all or in a tree like the parameters."
            )
    inputs, outputs = (_axes(one, leaf.ndim) for one in axes)
    if None in inputs + outputs or len({*inputs, *outputs}) < len(inputs) + len(outputs) or not inputs or not outputs:
        raise ValueError(f"{where}: dimension_numbers = {axes} are no disjoint axes of {name}; name each axis once.")
    rest = tuple(axis for axis in range(leaf.ndim) if axis not in inputs + outputs)
    sizes = tuple(math.prod(leaf.shape[axis] for axis in some) for some in (rest, inputs, outputs))
    order = rest + inputs + outputs
    return Layout(order, tuple(leaf.shape[axis] for axis in order), sizes, leaf.shape[inputs[-1]])  # type: ignore[arg-type]


def _axes(given: Any, ndim: int) -> tuple[Any, ...]:
    """From 0 on; None for an axis that is not there."""
    several = (given,) if isinstance(given, int) else tuple(given)
    return tuple(axis % ndim if -ndim <= axis < ndim else None for axis in several)


def flax_matrices(params: Params) -> Params:
    """Which axes of a flax model's parameters, nnx or linen, are inputs and outputs: for ``dimension_numbers``.

    Leaves of two axes are ``[d_in, d_out]``: kernels as they are, embeddings of a vocabulary as its rows. Kernels of
    convolutions ``[…, d_in, d_out]`` are ``(…·d_in) × d_out``. Those of attention are ``d × (heads·size)`` for query,
    key and value, ``[d, heads, size]``, and ``(heads·size) × d`` for its output, ``[heads, size, d]``. What is called
    bias, and all of fewer than two axes, is a vector.

    Args:
      params: nested dicts, as `byzjax.tasks.models.functional` has them, or an ``nnx.State``; leaves are known by their
        names.

    Returns:
      A tree of `optax.contrib.MuonDimensionNumbers`, and None for vectors.

    >>> import jax.numpy as jnp
    >>> flax_matrices({"query": {"kernel": jnp.zeros((8, 2, 4)), "bias": jnp.zeros((2, 4))}})["query"]
    {'bias': None, 'kernel': MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))}
    """
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, map(_flax_axes, names_of(params), leaves))


def _flax_axes(names: tuple[str, ...], leaf: jax.Array) -> Axes | None:
    if is_vector(names, leaf):
        return None
    if leaf.ndim == 3 and any(name in _ATTENTION for name in names[-2:]):
        return Axes((0,), (1, 2))
    return Axes(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))


def flax_layers(params: Params) -> Params:
    """The part that every parameter of a flax model plays, by its name: for `scale_by_scion`.

    ========== =======================================================================================
    label      leaves
    ========== =======================================================================================
    bias       of fewer than two axes, or called bias
    conv       kernels of convolutions
    embedding  called embedding
    last       the last other kernel; in a model with embeddings, the last one outside of all blocks. Keys around the
               whole, as ``{"params": …}``, do not count
    tied       without such a one, the embedding of tokens, which is the head then; not one named pos…
    first      without embeddings and convolutions, the first kernel
    hidden     all other kernels
    ========== =======================================================================================

    Kernels are in the order of their names with numbers read as numbers: dense2 comes before dense10. Where a model is
    named otherwise, write the tree of labels, or a function that gives it.

    Args:
      params: nested dicts, as `byzjax.tasks.models.functional` has them, or an ``nnx.State``.

    >>> import jax, byzjax
    >>> flax_layers(byzjax.tasks.models.mlp((4, 3, 3, 2)).init(jax.random.key(0)))["dense2"]
    {'bias': 'bias', 'kernel': 'last'}
    """
    leaves, structure = jax.tree.flatten(params)
    paths = names_of(params)
    labels = {names: _kind(names, leaf) for names, leaf in zip(paths, leaves, strict=True)}
    kernels = sorted((names for names, kind in labels.items() if kind == "hidden"), key=_natural)
    embeddings = [names for names, kind in labels.items() if kind == "embedding"]
    if embeddings:
        outer = _common(paths)
        heads = [names for names in kernels if len(names) - outer <= 2]
        tokens = [names for names in embeddings if not any("pos" in name for name in names[outer:])]
        labels |= dict.fromkeys(heads[-1:], "last") if heads else dict.fromkeys(tokens[-1:], "tied")
    elif kernels:
        first = {} if "conv" in labels.values() else {kernels[0]: "first"}
        labels |= first | {kernels[-1]: "last"}
    return jax.tree.unflatten(structure, [labels[names] for names in paths])


def _common(paths: list[tuple[str, ...]]) -> int:
    """How many keys are around all leaves, and neither a leaf's own nor its layer's."""
    most = max(min(map(len, paths)) - 2, 0)
    return next((k for k in range(most) if len({names[k] for names in paths}) > 1), most)


def _kind(names: tuple[str, ...], leaf: jax.Array) -> str:
    if is_vector(names, leaf):
        return "bias"
    if "embedding" in names[-1:]:
        return "embedding"
    attention = leaf.ndim == 3 and any(name in (*_ATTENTION, "out") for name in names[-2:])
    return "hidden" if leaf.ndim == 2 or attention else "conv"


def is_vector(names: tuple[str, ...], leaf: jax.Array) -> bool:
    """Whether a leaf of a flax model is a bias or a scale. Those of stacked heads have two axes."""
    return leaf.ndim < 2 or "bias" in names[-1:]


def names_of(tree: Any) -> list[tuple[str, ...]]:
    """Every leaf's path as names, without the attribute by which a variable of flax holds its array.

    >>> names_of({"query": {"kernel": 1.0}})
    [('query', 'kernel')]
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    siblings = collections.Counter(path[:-1] for path in paths)
    bare = [path[:-1] if path and path[-1] in _HELD and siblings[path[:-1]] == 1 else path for path in paths]
    return [tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path) for path in bare]


def _natural(names: tuple[str, ...]) -> list[Any]:
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for name in names for part in re.split(r"(\d+)", name)
    ]
