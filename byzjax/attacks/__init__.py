"""Attacks. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

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
}

__all__ = ["REGISTRY", "alie", "bit_flip", "ipm", "label_flip", "mimic", "none", "sign_flip"]


def __dir__() -> list[str]:
    return __all__
