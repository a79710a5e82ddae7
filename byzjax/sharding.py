"""Meshes, and what lies where on them: workers, their data and momenta on "workers", runs of a sweep on "runs".

A mesh changes where a round is computed, never what: the same keys, the same batches, the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from byzjax.checks import check_integer
from byzjax.rng import is_key, key_data
from byzjax.stacked.coordinate_sharding import AXIS, current, shard_coordinates
from byzjax.task import Task
from byzjax.types import Stacked

RUNS = "runs"


def make_mesh(runs: int = 1, workers: int | None = None, *, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes "runs" and "workers".

    Args:
      runs: of a sweep, side by side.
      workers: devices that share the workers of one run; by default all that there are for each run. Best a divisor of
        n: otherwise some devices have less to do.
      devices: by default all, those of other processes included.

    Raises:
      ValueError: runs < 1, workers < 1, or more of them than devices.

    >>> dict(make_mesh(workers=1).shape)
    {'runs': 1, 'workers': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    runs = check_integer(runs, "runs", "make_mesh", least=1)
    workers = len(devices) // runs if workers is None else check_integer(workers, "workers", "make_mesh", least=1)
    if not 0 < runs * workers <= len(devices):
        raise ValueError(
            f"make_mesh: runs = {runs} times workers = {max(workers, 1)} needs {runs * max(workers, 1)} devices, and "
            f"there are {len(devices)}; use fewer."
        )
    shape, chosen = (runs, workers), devices[: runs * workers]
    return jax.make_mesh(shape, (RUNS, AXIS), axis_types=(AxisType.Auto,) * 2, devices=chosen)


def place_task(task: Task, mesh: Mesh) -> Task:
    """A task whose data lie on a mesh: what has a row per worker with the workers, all else on every device.

    Args:
      task: any; with several processes, made alike in each of them.
      mesh: from `make_mesh`.

    >>> from byzjax import tasks
    >>> task = place_task(tasks.quartic(num_workers=4), make_mesh(workers=1))
    >>> task.data["shifts"].sharding.spec == jax.P("workers")
    True
    """
    layout = Layout(check_mesh(mesh), task.num_workers)

    def place(leaf: Any) -> Any:
        rows = jnp.shape(leaf)[:1] == (task.num_workers,) and layout.even
        return _put(leaf, NamedSharding(mesh, P(AXIS) if rows else P()))

    return jax.tree.map(place, task)


class Layout(NamedTuple):
    """Where the arrays of a round lie; nowhere in particular without a mesh.

    Attributes:
      mesh: with an axis "workers", or None.
      num_workers: n.
    """

    mesh: Mesh | None
    num_workers: int

    @property
    def even(self) -> bool:
        """Whether every device has as many workers as the others."""
        return self.mesh is None or self.num_workers % self.mesh.shape[AXIS] == 0

    def map_workers(self, function: Callable[..., Any], at_a_time: int | None) -> Callable[..., Any]:
        """A function of what all workers share and of what each has, ``[n, …]``, for so many of them at a time."""
        at_once = jax.vmap(function, in_axes=(None, 0, 0))
        if at_a_time is None or at_a_time >= self.num_workers:
            return at_once

        def in_turn(shared: Any, *own: Any) -> Any:
            return jax.lax.map(lambda one: function(shared, *one), own, batch_size=int(at_a_time))

        parts = 1 if self.mesh is None or not self.even else self.mesh.shape[AXIS]
        if parts == 1:
            return in_turn

        def on_every_device(shared: Any, *own: Any) -> Any:
            apart = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), own)
            done = jax.vmap(in_turn, in_axes=(None, 0, 0))(shared, *self.workers(apart))
            return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), self.workers(done))

        return on_every_device

    def spread(self):
        """The context in which a round is traced."""
        return shard_coordinates(self.mesh)

    def workers(self, tree: Any) -> Any:
        """Leaves ``[n, …]`` with their workers."""
        return self._constrain(tree, P(AXIS))

    def everywhere(self, tree: Any) -> Any:
        """Whole on every device."""
        return self._constrain(tree, P())

    def exchanged(self, updates: Stacked) -> Stacked:
        """The same; but its coordinates are exchanged between the devices now, once for all who ask."""
        spread = current()
        if spread is not None:
            spread.remember(updates, spread.exchanged(updates))
        return updates

    def resting(self, state: Any) -> Any:
        """A `RoundState` as it is kept between programs, and passed from one to the next."""
        if self.mesh is None:
            return state
        return jax.tree.map(jax.lax.with_sharding_constraint, state, self._at_rest(state))

    def put(self, state: Any) -> Any:
        """A `RoundState` that every process has alike, on the mesh."""
        return state if self.mesh is None else jax.tree.map(_put, state, self._at_rest(state))

    def put_everywhere(self, tree: Any) -> Any:
        """Arrays that every process has alike, whole on every device."""
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda leaf: _put(leaf, sharding), tree)

    def _at_rest(self, state: Any) -> Any:
        """What has a row for each worker, with the workers; by another axis if they do not divide; all else whole."""
        assert self.mesh is not None
        mesh, parts = self.mesh, self.mesh.shape[AXIS]

        def apart(leaf: Any) -> NamedSharding:
            shape = jnp.shape(leaf)
            divides = [axis for axis, size in enumerate(shape) if size % parts == 0]
            if shape[:1] != (self.num_workers,) or is_key(leaf) or not divides:
                return NamedSharding(mesh, P())
            return NamedSharding(mesh, P(*[None] * divides[0], AXIS))

        whole = jax.tree.map(lambda _: NamedSharding(mesh, P()), state)  # parameters may have n rows by chance
        return whole._replace(
            worker=jax.tree.map(apart, state.worker),
            attack=jax.tree.map(apart, state.attack),
            aggregator=jax.tree.map(apart, state.aggregator),
            estimator=jax.tree.map(apart, state.estimator),
        )

    def _constrain(self, tree: Any, spec: P) -> Any:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))


def check_mesh(mesh: Mesh) -> Mesh:
    """Reject what is no mesh with an axis "workers", all of whose axes are automatic."""
    if not isinstance(mesh, Mesh) or AXIS not in mesh.shape or set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            f"mesh: {mesh!r} is not a mesh with an axis 'workers' and axes of type Auto; make one with "
            "byzjax.sharding.make_mesh()."
        )
    return mesh


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if is_key(leaf):
        return jax.random.wrap_key_data(_put(key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    leaf = leaf if isinstance(leaf, jax.Array) else np.array(leaf)  # a device on the host would borrow NumPy's memory
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


__all__ = ["Layout", "check_mesh", "make_mesh", "place_task"]
