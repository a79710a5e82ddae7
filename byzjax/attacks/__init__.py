"""Attacks. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

from byzjax.attacks._corruption import nan, soft_error, stale, zero
from byzjax.attacks._mimic import mimic
from byzjax.attacks._poison import label_flip
from byzjax.attacks._simple import alie, bit_flip, ipm, none, sign_flip
from byzjax.base import Attack

REGISTRY: dict[str, Callable[..., Attack]] = {
    "none": none,
    "bit_flip": bit_flip,
    "sign_flip": sign_flip,
    "ipm": ipm,
    "alie": alie,
    "mimic": mimic,
    "label_flip": label_flip,
    "soft_error": soft_error,
    "nan": nan,
    "zero": zero,
    "stale": stale,
}

__all__ = [
    "REGISTRY",
    "alie",
    "bit_flip",
    "ipm",
    "label_flip",
    "mimic",
    "nan",
    "none",
    "sign_flip",
    "soft_error",
    "stale",
    "zero",
]


def __dir__() -> list[str]:
    return __all__
