"""Collectives: what a device asks of all others along a mesh axis."""

from byzjax.collectives._axes import device_number, own_copy
from byzjax.collectives._robust_pmean import check_shareable, init_memory, robust_pmean

__all__ = ["check_shareable", "device_number", "init_memory", "own_copy", "robust_pmean"]


def __dir__() -> list[str]:
    return __all__
