"""Scion: another norm for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from byzjax.checks import check_choice, check_kind, check_number, shown
from byzjax.checks.contracts import described
from byzjax.transforms._link import Link
from byzjax.transforms._lmo import NORMS, check_name, is_spectral, scale_by_lmo
from byzjax.transforms._matrices import DimensionNumbers, flax_layers
from byzjax.transforms._spectral import Coefficients, Method, orthogonalisation
from byzjax.types import Numeric, Params
from byzjax.values import value

Layers = Callable[[Params], Params] | Mapping[str, Any] | str

SCION_NORMS = {
    "first": "scion_spectral_max",
    "hidden": "scion_spectral",
    "conv": "scion_conv",
    "embedding": "scion_colnorm",
    "last": "scion_sign",
    "tied": "scion_sign_tied",
    "bias": "rms",
}
# The README of github.com/LIONS-EPFL/scion has the first three, as "MLP", "nanoGPT with weight sharing" and "CNN"; its
# examples/shallow-nanogpt the last, for characters of Shakespeare without weight sharing.
SCION_RADII = {
    "mlp": {"last": 2.0**10, "tied": 2.0**10, "others": 1.0},
    "gpt": {"last": 3000.0, "tied": 3000.0, "others": 50.0},
    "cnn": {"last": 128.0, "tied": 128.0, "others": 8.0},
    "char_gpt": {"embedding": 1.0, "last": 10.0, "tied": 10.0, "others": 3.0},
}


@value
def scale_by_scion(
    *,
    layers: Layers = "flax",
    norms: Mapping[str, str] | None = None,
    radii: str | Mapping[str, Numeric] = "mlp",
    constrained: bool = False,
    dimension_numbers: DimensionNumbers = "flax",
    method: Method = "svd",
    coefficients: Coefficients | None = None,
    steps: int | None = None,
) -> Link:
    """An optax link: the LMO of a norm that fits each layer, after Scion; `optax.partition` over `scale_by_lmo`.

    ``u_l ← −lmo_l(v_l) = argmax_{‖d‖_l ≤ ρ_l} ⟨v_l, d⟩`` in every leaf l. By default

    ========= ================== =============================================================
    label     norm               step of radius ρ, for kernels ``W[d_in, d_out]``
    ========= ================== =============================================================
    first     scion_spectral_max ``ρ max(1, √(d_out/d_in)) U Vᵀ``
    hidden    scion_spectral     ``ρ √(d_out/d_in) U Vᵀ``
    conv      scion_conv         ``ρ √(c_out/c_in)/k² U Vᵀ``, of ``(k² c_in) × c_out``
    embedding scion_colnorm      ``ρ √d_out``: every word's row has RMS ρ
    last      scion_sign         ``ρ sign(W)/d_in``
    tied      scion_sign_tied    the same for an embedding ``[vocabulary, width]`` as the head
    bias      rms                RMS ρ
    ========= ================== =============================================================

    A vector under a norm of matrices has the norm rms. Constrained, ``x ← (1 − γ) x + γ lmo(v)``, which keeps each
    layer in its ball once it is there; that is weight decay by γ. It needs ``params``.

    Args:
      layers: the label of every leaf, a tree or a function of the parameters; ``"flax"`` for `flax_layers`.
      norms: label -> norm, one of `scale_by_lmo`'s, in addition to those above or in place of them.
      radii: label -> ρ, may be traced; ``"others"`` for labels that are not there. Or whose they recommend: ``"mlp"``,
        1, and 1024 in the last layer; ``"gpt"``, 50 and 3000, for a head that is the embedding; ``"cnn"``, 8 and 128;
        ``"char_gpt"``, 1 of embeddings, 3, and 10 in the head, for characters of Shakespeare.
      constrained: see above. The authors' default; it wants weights that begin in their balls.
      dimension_numbers: as in `scale_by_lmo`.
      method, coefficients, steps: as in `scale_by_lmo`, of the layers whose norm is spectral. The authors use
        Newton–Schulz in bfloat16.

    Raises:
      ValueError: an unknown label, norm or set of radii; a radius ≤ 0; labels that do not fit the parameters, or
        have no radius; constrained without ``params``; what would have no effect, as in `scale_by_lmo`.

    Pethick, Xie, Antonakopoulos, Zhu, Silveti-Falls, Cevher, Training deep learning models with norm-constrained LMOs,
    ICML 2025 (arXiv 2502.07529), and github.com/LIONS-EPFL/scion, where learning rates are 2⁻⁶ (MLP), 2⁻¹² (nanoGPT)
    and 2⁻⁴ (CNN), and activations are multiplied by √2.

    >>> import jax.numpy as jnp
    >>> tx = scale_by_scion(layers={"w": "last"}, radii={"last": 2.0})
    >>> tx.update({"w": jnp.array([[0.1], [-5.0]])}, tx.init({"w": jnp.zeros((2, 1))}))[0]["w"].tolist()
    [[1.0], [-1.0]]
    """
    where = "scale_by_scion"
    check_choice(constrained, (False, True), "constrained", where)
    known = SCION_NORMS | dict(norms or {})
    for label, norm in known.items():
        check_name(norm, NORMS, f"norms[{label!r}]", where)
    lengths = _lengths(radii, known)
    orthogonalisation(method, coefficients, steps, where)
    how: Any = {"method": method, "coefficients": coefficients, "steps": steps}
    if method != "svd" and not any(is_spectral(known[label]) for label in lengths):
        raise ValueError(f"{where}: method = {method!r} is for spectral norms, and no label has one; leave it out.")
    links = {
        label: scale_by_lmo(
            norm,
            radius=lengths[label],
            per_leaf=True,
            vectors=None if norm in ("l2", "linf", "l1", "rms") else "rms",
            dimension_numbers=dimension_numbers,
            **(how if is_spectral(norm) else {}),
        )
        for label, norm in known.items()
        if label in lengths
    }

    rule: Any = flax_layers if isinstance(layers, str) and layers == "flax" else _as_tree(layers)

    def labelled(params: Params) -> Any:
        labels = rule(params) if callable(rule) else rule
        for label in jax.tree.leaves(labels):
            check_name(label, known, "a label of layers", where)
            if label not in links:
                raise ValueError(f"{where}: label {label!r} has no radius; add it to radii, or radii['others'].")
        try:
            jax.tree.map(lambda label, part: None, labels, params)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{where}: layers = {shown(labels)} do not fit leaves {shown(described(params))}; label every leaf, in "
                "a tree of the same keys."
            ) from error
        return labels

    parts = optax.with_extra_args_support(optax.partition(links, labelled))  # type: ignore[arg-type]

    def update(updates: Params, state: Any, params: Params | None = None, **extra):
        steps, state = parts.update(updates, state, params, **extra)
        if constrained:
            if params is None:
                raise ValueError(f"{where}: constrained steps need params; pass them to update.")
            steps = jax.tree.map(lambda step, x: step + x.astype(step.dtype), steps, params)
        return steps, state

    return Link(parts.init, update)


def _as_tree(layers: Any) -> Any:
    """The same with dicts in place of mappings in which JAX sees no tree."""
    if isinstance(layers, Mapping) and jax.tree_util.all_leaves([layers]):
        return {key: _as_tree(one) for key, one in layers.items()}
    return layers


def _lengths(radii: Any, known: Mapping[str, str]) -> dict[str, Any]:
    """The radius of every label that has one."""
    if isinstance(radii, str):
        radii = SCION_RADII[check_name(radii, SCION_RADII, "radii", "scale_by_scion")]
    fix = "pass 'mlp', 'gpt', 'cnn', 'char_gpt', or {label: radius}."
    check_kind(radii, Mapping, "radii", "scale_by_scion", fix=fix)  # type: ignore[type-abstract]
    for label, radius in radii.items():
        check_name(label, [*known, "others"], "a label of radii", "scale_by_scion")
        check_number(radius, f"radii[{label!r}]", "scale_by_scion", least=0, open_below=True)
    others = dict.fromkeys(known, radii["others"]) if "others" in radii else {}
    return others | {label: radius for label, radius in radii.items() if label != "others"}
