"""Byz-LMO: steps of a length that any norm measures; Byz-NSGDM, sign descent, Muon and Scion are of its kind."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Literal

from byzjax.base import Aggregator, Method
from byzjax.checks import check_choice
from byzjax.methods._momentum import momentum_method
from byzjax.methods._schedules import Schedule
from byzjax.transforms import scale_by_lmo, scale_by_scion
from byzjax.transforms._matrices import DimensionNumbers
from byzjax.transforms._momentum import Momentum
from byzjax.transforms._scion import Layers
from byzjax.transforms._spectral import Coefficients
from byzjax.transforms._spectral import Method as Orthogonaliser
from byzjax.types import Numeric, Stacked
from byzjax.values import takes_as_argument, value

MuonScale = Literal["none", "width", "rms"]
_MUON = {"none": "spectral", "width": "scion_spectral_max", "rms": "muon_rms"}


@takes_as_argument("learning_rate")
@value
def byz_lmo(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    norm: str = "l2",
    radius: Numeric = 1.0,
    per_leaf: bool = False,
    vectors: str | None = None,
    dimension_numbers: DimensionNumbers = "flax",
    method: Orthogonaliser = "svd",
    coefficients: Coefficients | None = None,
    steps: int | None = None,
    beta: Numeric | Schedule = 0.9,
    decay: bool = True,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Byz-LMO, Remark 1 of Bolatov, Horváth, Takáč, Gorbunov: Algorithm 1 with steps of any norm.

    ``v_i ← (1 − η) v_i + η g_i``,  ``v = ARAgg(v_1, …, v_n)``,  ``x ← x + γ_k argmin_{‖d‖ ≤ ρ} ⟨v, d⟩``. Of l2 it is
    `byz_nsgdm`, bit for bit.

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule, e.g. ``byzjax.chain(nnm(f=3), geometric_median())``.
      norm, radius, per_leaf, vectors: as in `byzjax.transforms.scale_by_lmo`.
      dimension_numbers: likewise; ``"flax"`` is for parameters with flax's names.
      method, coefficients, steps: likewise, for spectral norms.
      beta, decay, momentum, initial_momentum: as in `byz_nsgdm`.

    Raises:
      ValueError: as in `byz_nsgdm` and `byzjax.transforms.scale_by_lmo`.

    >>> from byzjax import aggregators as agg
    >>> byz_lmo(0.1, norm="linf", aggregator=agg.median())
    byz_lmo(learning_rate=0.1, aggregator=median(), norm='linf')
    """
    link = scale_by_lmo(
        norm,
        radius=radius,
        per_leaf=per_leaf,
        vectors=vectors,
        dimension_numbers=dimension_numbers,
        method=method,
        coefficients=coefficients,
        steps=steps,
    )
    return momentum_method("byz_lmo", [link], learning_rate, decay, aggregator, beta, momentum, initial_momentum)


@takes_as_argument("learning_rate")
@value
def byz_sign(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    beta: Numeric | Schedule = 0.9,
    decay: bool = True,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Sign descent with worker momentum and a robust rule: `byz_lmo` of linf.

    ``v_i ← β v_i + (1 − β) g_i``,  ``x ← x − γ_k sign(ARAgg(v_1, …, v_n))``. The sign is taken of the aggregate; that
    each worker sends signs, of which the majority counts (Bernstein, Zhao, Azizzadenesheli, Anandkumar, signSGD with
    majority vote, ICLR 2019), is the rule `byzjax.aggregators.sign_majority`.

    Args:
      learning_rate, aggregator, beta, decay, momentum, initial_momentum: as in `byz_nsgdm`.

    Raises:
      ValueError: as in `byz_nsgdm`.

    >>> from byzjax import aggregators as agg
    >>> byz_sign(0.01, aggregator=agg.median())
    byz_sign(learning_rate=0.01, aggregator=median())
    """
    links = [scale_by_lmo("linf")]
    return momentum_method("byz_sign", links, learning_rate, decay, aggregator, beta, momentum, initial_momentum)


@takes_as_argument("learning_rate")
@value
def byz_muon(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    scale: MuonScale = "none",
    vectors: str = "l2",
    dimension_numbers: DimensionNumbers = "flax",
    method: Orthogonaliser = "svd",
    coefficients: Coefficients | None = None,
    steps: int | None = None,
    beta: Numeric | Schedule = 0.9,
    decay: bool = True,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Muon with a robust rule: `byz_lmo` of the spectral norm.

    ``v_i ← β v_i + (1 − β) g_i``,  ``V = ARAgg(v_1, …, v_n) = U Σ Vᵀ``,  ``X ← X − γ_k c U Vᵀ`` in every matrix.

    Muon itself has heavy-ball momentum with Nesterov's look-ahead at the one worker that there is, takes
    ``method="newton_schulz"``, and leaves vectors, embeddings and the head to AdamW (Jordan et al., 2024). Here the
    momentum belongs to the workers, the default is the exact step, and all leaves move by it.

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule.
      scale: c. ``"none"`` is 1, as in Remark 1; ``"width"`` √max(1, d_out/d_in), as in Muon; ``"rms"``
        0.2 √max(d_in, d_out), as in Liu et al., Muon is scalable for LLM training, arXiv 2502.16982.
      vectors: the norm of biases and scales; l2 is the spectral norm of a matrix with one column.
      dimension_numbers, method, coefficients, steps: as in `byzjax.transforms.scale_by_lmo`.
      beta, decay, momentum, initial_momentum: as in `byz_nsgdm`.

    Raises:
      ValueError: as in `byz_nsgdm` and `byzjax.transforms.scale_by_lmo`; an unknown scale.

    >>> from byzjax import aggregators as agg
    >>> byz_muon(0.1, aggregator=agg.median(), method="newton_schulz", coefficients="dion")
    byz_muon(learning_rate=0.1, aggregator=median(), method='newton_schulz', coefficients='dion')
    """
    link = scale_by_lmo(
        _MUON[check_choice(scale, typing.get_args(MuonScale), "scale", "byz_muon")],
        vectors=vectors,
        dimension_numbers=dimension_numbers,
        method=method,
        coefficients=coefficients,
        steps=steps,
    )
    return momentum_method("byz_muon", [link], learning_rate, decay, aggregator, beta, momentum, initial_momentum)


@takes_as_argument("learning_rate")
@value
def byz_scion(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    layers: Layers = "flax",
    norms: Mapping[str, str] | None = None,
    radii: str | Mapping[str, Numeric] = "mlp",
    constrained: bool = False,
    dimension_numbers: DimensionNumbers = "flax",
    method: Orthogonaliser = "svd",
    coefficients: Coefficients | None = None,
    steps: int | None = None,
    beta: Numeric | Schedule = 0.9,
    decay: bool = True,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Scion with a robust rule: the LMO of another norm for every kind of layer.

    ``v_i ← β v_i + (1 − β) g_i``,  ``v = ARAgg(v_1, …, v_n)``,  ``x_l ← x_l + γ_k lmo_l(v_l)`` in every layer l, or
    ``x_l ← (1 − γ_k) x_l + γ_k lmo_l(v_l)`` constrained.

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule.
      layers, norms, radii, constrained: as in `byzjax.transforms.scale_by_scion`.
      dimension_numbers, method, coefficients, steps: as in `byzjax.transforms.scale_by_lmo`.
      beta, decay, momentum, initial_momentum: as in `byz_nsgdm`. The authors' momentum 0.1 is β = 0.9.

    Raises:
      ValueError: as in `byz_nsgdm` and `byzjax.transforms.scale_by_scion`.

    Pethick et al., Training deep learning models with norm-constrained LMOs, ICML 2025.

    >>> from byzjax import aggregators as agg
    >>> byz_scion(2**-6, aggregator=agg.median())
    byz_scion(learning_rate=0.015625, aggregator=median())
    """
    link = scale_by_scion(
        layers=layers,
        norms=norms,
        radii=radii,
        constrained=constrained,
        dimension_numbers=dimension_numbers,
        method=method,
        coefficients=coefficients,
        steps=steps,
    )
    return momentum_method("byz_scion", [link], learning_rate, decay, aggregator, beta, momentum, initial_momentum)
