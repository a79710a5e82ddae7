"""The types of trees and numbers."""

from __future__ import annotations

from typing import Any

import jax
import optax

Params = optax.Params  # leaves [*p]
Stacked = optax.Updates  # leaves [n, *p]
Batch = Any  # one worker: leaves [B, …]; a round: leaves [n, B, …]
Numeric = float | int | jax.Array
