"""What makes a run itself: what has to be equal for it to go on from a checkpoint."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax._version import __version__
from byzjax.programs.equations import calls_back, inner_programs, is_array, settings
from byzjax.rng import implementation, key_data
from byzjax.simulation.round import RoundState
from byzjax.storage.digests import plain
from byzjax.task import Task

_ANYTHING = "a number or a part of its task, method, attack or recorder"


class Fingerprint(NamedTuple):
    """What makes a run itself, but for its length.

    Attributes:
      same: must be equal for a run to go on from a checkpoint; JSON.
      exact: must be equal where ``made_with`` is: checksums of the data, and of the program with every number in it.
      made_with: versions, and the kind of device.
      recorded: ``(rounds) -> (history, evals)``, the shapes of what is recorded of them.
      calls_back: whether Python code that nothing here shows gives it numbers, as `jax.pure_callback` does.
    """

    same: dict[str, Any]
    exact: dict[str, int]
    made_with: dict[str, str]
    recorded: Callable[[int], tuple[Any, Any]]
    calls_back: bool = False

    def named(self, config: Mapping[str, Any] | None) -> Fingerprint:
        """With a configuration as a part of it."""
        return self._replace(same=json.loads(json.dumps({**self.same, "config": plain(config)})))

    def as_json(self) -> dict[str, Any]:
        """What is written down."""
        return {"same": self.same, "exact": self.exact, "made_with": self.made_with}

    def compare(self, saved: dict[str, Any]) -> tuple[str, str]:
        """In what another one, as JSON, differs; and why that could not be told for certain. Both may be empty."""
        wrong, made_with = _differences(saved["same"], self.same), saved["made_with"]
        if made_with != self.made_with:
            doubtful = (
                f"was made with {_listed(made_with)}, and this is {_listed(self.made_with)}: numbers may differ in "
                "their last bits, and whether a number in the configuration has changed is not checked."
            )
            return wrong, doubtful
        changed = [name for name, value in self.exact.items() if saved["exact"].get(name) != value]
        return wrong or "; ".join(changed), ""


def identify(
    task: Task,
    begin: Callable[..., RoundState],
    go_on: Callable[..., tuple[Any, Any]],
    *,
    state: RoundState,
    byzantine: jax.Array,
    eval_every: int,
) -> Fingerprint:
    """What makes a run itself.

    Args:
      task: the objective.
      begin: ``(task, key) -> state``, the initial one.
      go_on: ``(task, state, byzantine) -> (metrics, evaluation)`` of one round.
      state: of the run that begins.
      byzantine, eval_every: as in `byzjax.run`.
    """

    def program(task: Task, state: RoundState, byzantine: jax.Array):
        return begin(task, state.key), go_on(task, state, byzantine)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), (task, state, byzantine))
    traced, (_, (metrics, evaluation)) = jax.make_jaxpr(program, return_shape=True)(*shapes)
    same = {
        "task": f"{task.name} with {task.num_workers} workers",
        "data": _described(task.data),
        "byzantine": np.flatnonzero(np.asarray(byzantine)).tolist(),
        "key": {"implementation": implementation(state.key), "data": np.asarray(key_data(state.key)).tolist()},
        "eval_every": eval_every,
        "state": _described(state),
        "history": _described(metrics),
        "evaluations": _described(evaluation),
        "settings": settings(),
    }

    def recorded(rounds: int) -> tuple[Any, Any]:
        def rows(tree: Any, count: int) -> Any:
            return jax.tree.map(lambda x: np.empty((count, *x.shape), x.dtype), tree)

        evaluations = rounds // eval_every if eval_every else 0
        return rows(metrics, rounds), rows(evaluation, evaluations) if evaluations else {}

    device = jax.devices()[0]
    made_with = {"byzjax": __version__, "jax": jax.__version__, "device": device.device_kind}
    exact = {"the contents of its data": _contents(task.data), _ANYTHING: _checksum_of_program(traced)}
    return Fingerprint(same, exact, made_with, recorded, calls_back(traced.jaxpr))


def _described(tree: Any) -> dict[str, str]:
    """Every leaf's dtype and shape."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for path, leaf in leaves}


def _contents(data: Any) -> int:
    """A checksum of all arrays that a process sees as a whole."""
    seen = [x for x in map(jnp.asarray, jax.tree.leaves(data)) if x.is_fully_addressable or x.is_fully_replicated]
    return zlib.crc32(json.dumps([_checksum(x) for x in seen]).encode())


def _checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(key_data(array)).tobytes())


def _checksum_of_program(traced: Any) -> int:
    """Of the text, without the addresses of functions in it, and of the arrays that it holds."""
    text = re.sub(r"0x[0-9a-f]+", "", str(traced))
    return zlib.crc32(json.dumps([text, [_checksum(array) for array in _constants(traced)]]).encode())


def _constants(traced: Any) -> Iterator[Any]:
    if hasattr(traced, "consts"):
        yield from (array for array in traced.consts if hasattr(array, "dtype"))
        traced = traced.jaxpr
    for equation in traced.eqns:
        yield from (var.val for var in equation.invars if is_array(var))
        for part in inner_programs(equation):
            yield from _constants(part)


def _differences(saved: dict[str, Any], here: dict[str, Any]) -> str:
    names = [name for name in dict.fromkeys([*here, *saved]) if saved.get(name) != here.get(name)]
    return "; ".join(_difference(name, saved.get(name), here.get(name)) for name in names[:3])


def _difference(name: str, saved: Any, here: Any) -> str:
    if isinstance(saved, dict) and isinstance(here, dict):
        return f"{name} ({_differences(saved, here)})"
    texts = [text if len(text) <= 60 else text[:57] + "…" for text in (str(saved), str(here))]
    return f"{name}: {texts[0]} there, {texts[1]} here"


def _listed(made_with: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in made_with.items())
