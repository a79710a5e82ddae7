"""Steps of a length that a norm measures: the linear minimisation oracle of its ball."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.checks import check_choice, nan_unless, number_or_nan, shown
from byzjax.stacked.explicit_axes import on_auto_axes
from byzjax.transforms._link import Link, stateless
from byzjax.transforms._matrices import DimensionNumbers, Layout, layouts
from byzjax.transforms._normalize import global_norm, normalized, power_of_two
from byzjax.transforms._spectral import (
    Coefficients,
    Method,
    Orthogonalisation,
    largest_direction,
    orthogonal,
    orthogonalisation,
    singular_values,
)
from byzjax.transforms._vector_norms import VECTOR_NORMS, Norm, lengths, units
from byzjax.types import Numeric, Params
from byzjax.values import value


class _MatrixNorm(NamedTuple):
    """A norm of block-diagonal matrices ``[b, d_in, d_out]``; as `Norm`, told how to orthogonalise."""

    step: Callable[[jax.Array, Orthogonalisation], jax.Array]
    dual: Callable[[jax.Array], jax.Array]


_MATRIX_NORMS = {
    "spectral": _MatrixNorm(orthogonal, lambda x: singular_values(x).sum()),
    "nuclear": _MatrixNorm(lambda x, how: largest_direction(x), lambda x: singular_values(x).max()),
    "colnorm": _MatrixNorm(lambda x, how: units(x, 2), lambda x: lengths(x, 2).sum()),
    "rownorm": _MatrixNorm(lambda x, how: units(x, 1), lambda x: lengths(x, 1).sum()),
    "sign": _MatrixNorm(lambda x, how: jnp.sign(x), lambda x: jnp.abs(x).sum()),
}


def _by_ratio(layout: Layout) -> float:
    return math.sqrt(layout.d_out / layout.d_in)


# name -> the norm that it is a multiple of, and by how much its steps are longer.
_SCALED: dict[str, tuple[str, Callable[[Layout], float]]] = {
    "scion_spectral": ("spectral", _by_ratio),
    "scion_spectral_max": ("spectral", lambda layout: max(1.0, _by_ratio(layout))),
    "scion_spectral_input": ("spectral", lambda layout: math.sqrt(layout.d_out)),
    "scion_conv": ("spectral", lambda one: math.sqrt(one.d_out / one.channels) * one.channels / one.d_in),
    "scion_colnorm": ("colnorm", lambda layout: math.sqrt(layout.d_out)),
    "scion_colnorm_hidden": ("colnorm", lambda layout: math.sqrt(layout.d_out) / layout.d_in),
    "scion_rownorm": ("rownorm", lambda layout: 1 / math.sqrt(layout.d_in)),
    "scion_sign": ("sign", lambda layout: 1 / layout.d_in),
    "scion_sign_tied": ("sign", lambda layout: 1 / layout.d_out),
    "muon_rms": ("spectral", lambda layout: 0.2 * math.sqrt(max(layout.d_in, layout.d_out))),
}
NORMS = (*VECTOR_NORMS, *(name for name in _MATRIX_NORMS if name != "sign"), *_SCALED)


class _Ball(NamedTuple):
    """What `scale_by_lmo` and `dual_norm` are told of a norm."""

    norm: str
    per_leaf: bool
    vectors: str | None
    dimension_numbers: DimensionNumbers
    where: str

    @property
    def joint(self) -> bool:
        """Whether all leaves are one vector of Euclidean length."""
        return self.norm in ("l2", "rms") and not self.per_leaf

    def joint_factor(self, leaves: list[jax.Array]) -> float:
        """What steps are longer by than those of l2."""
        return math.sqrt(sum(leaf.size for leaf in leaves)) if self.norm == "rms" else 1.0

    @property
    def one_leaf_moves(self) -> bool:
        """Whether the norm is a sum over leaves."""
        return self.norm in ("l1", "nuclear") and not self.per_leaf

    def of_leaves(self, tree: Params, how: Orthogonalisation) -> list[Norm]:
        """The norm of every leaf."""
        if self.norm in VECTOR_NORMS:
            return [VECTOR_NORMS[self.norm]] * len(jax.tree.leaves(tree))
        norms = []
        known = layouts(tree, self.dimension_numbers, self.where)
        for (path, leaf), layout in zip(jax.tree.leaves_with_path(tree), known, strict=True):
            if layout is None and self.vectors is None:
                raise ValueError(
                    f"{self.where}: leaf {jax.tree_util.keystr(path) or 'x'} of shape {leaf.shape} is no matrix, as "
                    f"norm = {self.norm!r} wants; say how vectors are measured, e.g. vectors='l2'."
                )
            norms.append(VECTOR_NORMS[self.vectors or ""] if layout is None else _of_matrix(self.norm, layout, how))
        return norms

    def duals(self, tree: Params) -> tuple[jax.Array, jax.Array]:
        """The dual norm of every leaf after all are multiplied by the same power of two, and that."""
        leaves, power = _of_one_scale(jax.tree.leaves(_finite_part(tree, self.where)))
        norms = self.of_leaves(tree, Orthogonalisation())
        parts = [norm.dual(x) for norm, x in zip(norms, leaves, strict=True) if x.size]
        return jnp.stack(parts or [jnp.zeros(())]), power


@value
def scale_by_lmo(
    norm: str,
    *,
    radius: Numeric = 1.0,
    per_leaf: bool = False,
    vectors: str | None = None,
    dimension_numbers: DimensionNumbers = None,
    method: Method = "svd",
    coefficients: Coefficients | None = None,
    steps: int | None = None,
) -> Link:
    """An optax link: the longest step that a norm allows, as far up the aggregate as it gets.

    ``u ← −lmo(v) = argmax_{‖d‖ ≤ radius} ⟨v, d⟩``, of which `optax.scale_by_learning_rate` takes the negative: line 6
    of Algorithm 1 for any norm, Remark 1 of Bolatov, Horváth, Takáč, Gorbunov. ``⟨v, u⟩ = radius · dual_norm(v)``.

    Vectors, the whole tree as one:

    ==== ========================================================
    l2   ``v/‖v‖₂``
    linf ``sign v``
    l1   ``sign(v_j) e_j`` at the largest |v_j|, of several the first
    rms  ``√d v/‖v‖₂``, the norm ``‖x‖₂/√d`` of d coordinates
    ==== ========================================================

    Matrices ``W[d_in, d_out]``, the whole tree as one block-diagonal matrix:

    ======== ==================================================================================================
    spectral ``U Vᵀ`` of ``W = U Σ Vᵀ``: Muon. The largest over leaves: all of them move
    nuclear  ``u₁ v₁ᵀ``. The sum over leaves: only the one of largest σ₁ moves, of several the first
    colnorm  the weights of each input have length 1. The columns are those of ``y = Wᵀx``, not of the array
    rownorm  the weights of each output have length 1
    ======== ==================================================================================================

    and multiples of them that depend on sizes, in which Scion measures layers (``scion_``): spectral times
    √(d_out/d_in), with ``_max`` at least 1, with ``_input`` √d_out; conv, √(c_out/c_in) over the window's number of
    places; colnorm √d_out, with ``_hidden`` √d_out/d_in; rownorm 1/√d_in; sign, ``sign(W)/d_in``, and with ``_tied``
    ``sign(W)/d_out``, for an embedding ``[vocabulary, width]`` that is the head as well. ``muon_rms``: 0.2
    √max(d_in, d_out), which makes steps as long as Adam's.

    Exactly 0 at v = 0, and squares neither over- nor underflow. 16-bit leaves are computed in float32 and rounded once.
    A leaf that is not finite becomes NaN, under l1 and nuclear with all others; under l2 and rms, where ``per_leaf`` is
    false, a NaN makes all of u NaN, and ±∞ that entry, and 0 of the others.

    Args:
      norm: one of the names above.
      radius: > 0, may be traced; u is NaN where it is traced and ≤ 0.
      per_leaf: every leaf moves by itself, ``‖x‖ = max over leaves``; linf, spectral and Scion's do in any case.
      vectors: the vector norm of leaves that are no matrices, for matrix norms. A bias is then one more block; ``"l2"``
        is what both spectral and nuclear are of a matrix with one column.
      dimension_numbers: which axes are inputs and outputs, for leaves of more than two axes: a tree of
        `optax.contrib.MuonDimensionNumbers`, with None for vectors, or a function of the parameters; ``"flax"`` for
        `flax_matrices`. Axes that are neither count different matrices, each by itself.
      method: of spectral norms. ``"svd"`` is exact, and leaves out directions of ``σ ≤ 4 ε σ₁``, which would be
        arbitrary. ``"polar"``, by `jax.scipy.linalg.polar`, is exact but for such directions, in which it may move by
        up to 1; JAX does not run it inside of `jax.shard_map`. Under both, units that get no gradient, rows and columns
        of zeros, stay. ``"newton_schulz"`` is what Muon does.
      coefficients: of Newton–Schulz, in multiplications alone. ``"classic"``, Muon's five steps and the default, leaves
        singular values of a Gaussian 64 × 128 matrix between 0.68 and 1.13: ``⟨v, u⟩`` is 0.853 of the maximum, and ‖u‖
        more than the radius. ``"dion"``, five steps, between 0.97 and 1.04, 0.996 of it. ``"polar_express"``, eight,
        makes all ``σ ≥ ‖v‖_F/1000`` 1 to rounding, and smaller ones at most 1: that is the LMO. Or a triple, or a list.
      steps: of Newton–Schulz with one triple or the classic one; 5 by default.

    Raises:
      ValueError: an unknown norm, method or coefficients; radius ≤ 0; a leaf that is no matrix without ``vectors``, or
        has more than two axes without ``dimension_numbers``; leaves of integers, or complex ones but under l2 and rms;
        what would have no effect: ``vectors`` for a vector norm, ``method`` for a norm that is not spectral,
        ``coefficients`` or ``steps`` without ``method="newton_schulz"``.

    Muon: Jordan et al., 2024. Norms of layers: Pethick, Xie, Antonakopoulos, Zhu, Silveti-Falls, Cevher, Training deep
    learning models with norm-constrained LMOs, ICML 2025, and their code.

    >>> tx = scale_by_lmo("spectral")
    >>> tx.update(jnp.array([[3.0, 0.0], [0.0, -1e-9]]), tx.init(jnp.zeros((2, 2))))[0].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    where = "scale_by_lmo"
    length = number_or_nan(radius, "radius", where, least=0, open_below=True)
    ball = _ball(norm, per_leaf, vectors, dimension_numbers, where)
    how = orthogonalisation(method, coefficients, steps, where)
    if method != "svd" and not is_spectral(norm):
        raise ValueError(f"{where}: method = {method!r} is for spectral norms, norm = {norm!r} is none; leave it out.")
    return stateless(lambda updates: _longest(ball, updates, length, how), where)


def dual_norm(
    norm: str,
    v: Params,
    *,
    per_leaf: bool = False,
    vectors: str | None = None,
    dimension_numbers: DimensionNumbers = None,
) -> jax.Array:
    """``‖v‖_* = max_{‖d‖ ≤ 1} ⟨v, d⟩``: what a step of `scale_by_lmo` gains to first order.

    Of l2 it is ``‖v‖₂``, of linf ``‖v‖₁``, of l1 ``‖v‖_∞``, of rms ``√d ‖v‖₂``, of spectral the sum of singular values,
    of nuclear the largest, of colnorm and rownorm the sum of lengths. Over leaves it is the sum where all of them
    move, and else the largest.

    Args:
      norm, per_leaf, vectors, dimension_numbers: as in `scale_by_lmo`.
      v: any tree.

    Returns:
      f32[], f64[] if there is such a leaf; NaN where v is not finite.

    Raises:
      ValueError: as in `scale_by_lmo`.

    >>> float(dual_norm("spectral", jnp.array([[3.0, 0.0], [0.0, -1.0]])))
    4.0
    """
    ball = _ball(norm, per_leaf, vectors, dimension_numbers, "dual_norm")
    v = jax.tree.map(jnp.asarray, v)
    return on_auto_axes(lambda v: _dual(ball, v), (v,), {}, lambda sharding: sharding())


def _dual(ball: _Ball, v: Params) -> jax.Array:
    leaves = jax.tree.leaves(v)
    if ball.joint:
        length = global_norm(v)
        return length * ball.joint_factor(leaves) * _nan_unless_finite(leaves).astype(length.dtype)
    duals, power = ball.duals(v)
    total = duals.max() if ball.one_leaf_moves else duals.sum()
    return total / power * _nan_unless_finite(leaves).astype(total.dtype)


@value
def normalize_by_global_norm() -> Link:
    """An optax link: ``u ← v / ‖v‖`` over all parameters jointly, line 6 of Algorithm 1; ``scale_by_lmo("l2")``.

    Complex parameters have the norm of their real and imaginary parts together, as in `optax.global_norm`. Exactly 0
    at v = 0, and exact in relative terms for ‖v‖ from the smallest to the largest float32, where
    ``optax.contrib`` variants divide 0 by 0 or add 1e-6, which is a different method when gradients are that small.

    >>> tx = normalize_by_global_norm()
    >>> tx.update(jnp.array([3e-25, 4e-25]), tx.init(jnp.zeros(2)))[0].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    >>> tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)))[0].tolist()
    [0.0, 0.0]
    """
    return scale_by_lmo("l2")


def _ball(norm: str, per_leaf: bool, vectors: str | None, dimension_numbers: DimensionNumbers, where: str) -> _Ball:
    check_name(norm, NORMS, "norm", where)
    check_choice(per_leaf, (False, True), "per_leaf", where)
    if vectors is not None:
        check_name(vectors, tuple(VECTOR_NORMS), "vectors", where)
        if norm in VECTOR_NORMS:
            raise ValueError(
                f"{where}: vectors = {vectors!r} is for norms of matrices, and norm = {norm!r} is none; leave it out."
            )
    return _Ball(norm, bool(per_leaf), vectors, dimension_numbers, where)


def check_name(name: str, known: Iterable[str], argument: str, where: str) -> str:
    """Reject an unknown name; returns it.

    Raises:
      ValueError: with the nearest.
    """
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    nearest = f"; nearest: {near[0]}" if near else ""
    raise ValueError(f"{where}: {argument} = {shown(name)} is unknown{nearest}. Known: {', '.join(known)}.")


def is_spectral(norm: str) -> bool:
    """Whether steps are those of the spectral norm, or a multiple of it."""
    return _SCALED.get(norm, (norm,))[0] == "spectral"


def _of_matrix(name: str, layout: Layout, how: Orthogonalisation) -> Norm:
    base, factor = _SCALED.get(name, (name, None))
    step, dual = _MATRIX_NORMS[base]
    longer = 1.0 if factor is None else factor(layout)
    return Norm(
        lambda leaf: layout.back(step(layout.of(leaf), how)) * longer, lambda leaf: dual(layout.of(leaf)) * longer
    )


def _longest(ball: _Ball, updates: Params, radius: Numeric, how: Orthogonalisation) -> Params:
    leaves, structure = jax.tree.flatten(updates)
    if ball.joint:
        return normalized(updates, radius * ball.joint_factor(leaves) if ball.norm == "rms" else radius)
    norms, inputs = ball.of_leaves(updates, how), jax.tree.leaves(_finite_part(updates, ball.where))
    steps = [norm.step(x) if x.size else x for norm, x in zip(norms, inputs, strict=True)]
    valid = [_nan_unless_finite([leaf]) for leaf in leaves]
    if ball.one_leaf_moves:
        gains = [(step.astype(x.dtype) * x).sum() for step, x in zip(steps, _of_one_scale(inputs)[0], strict=True)]
        moving = jnp.arange(len(leaves)) == jnp.argmax(jnp.stack(gains))
        steps = [jnp.where(moves, step, 0.0) for moves, step in zip(moving, steps, strict=True)]
        valid = [_nan_unless_finite(leaves)] * len(leaves)
    done = [
        (step * (jnp.asarray(radius, step.dtype) * one_or_nan.astype(step.dtype))).astype(leaf.dtype)
        for step, one_or_nan, leaf in zip(steps, valid, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, done)


def _of_one_scale(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """All times the power of two that brings the largest entry near 1, in one dtype; and that."""
    dtype = jnp.dtype(jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32)
    leaves = [leaf.astype(dtype) for leaf in leaves]
    power = power_of_two(jnp.stack([jnp.abs(x).max() for x in leaves if x.size] or [jnp.ones((), dtype)]).max())
    return [leaf * power for leaf in leaves], power


def _finite_part(tree: Params, where: str) -> Params:
    """In float32 or wider, with 0 for what is not finite: an iteration on NaN may never end."""

    def wide(x: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(x):
            raise ValueError(
                f"{where}: a leaf is {x.dtype}; only norm='l2' and 'rms' without per_leaf take complex ones."
            )
        x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
        return jnp.where(jnp.isfinite(x), x, 0.0)

    return jax.tree.map(wide, tree)


def _nan_unless_finite(leaves: list[jax.Array]) -> jax.Array:
    return nan_unless(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.array(True)]).all())
