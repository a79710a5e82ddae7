"""What is said of what a user hands in: one line of error each, naming argument, value and fix."""

from byzjax.checks.values import (
    check_choice,
    check_dataset,
    check_f,
    check_integer,
    check_kind,
    check_mask,
    check_minority,
    check_number,
    nan_unless,
    num_workers_of,
    number_or_nan,
    quoted,
    shown,
    with_article,
)

__all__ = [
    "check_choice",
    "check_dataset",
    "check_f",
    "check_integer",
    "check_kind",
    "check_mask",
    "check_minority",
    "check_number",
    "nan_unless",
    "num_workers_of",
    "number_or_nan",
    "quoted",
    "shown",
    "with_article",
]
