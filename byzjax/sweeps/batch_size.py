"""How many runs a chunk has: as many as help and fit, by XLA's own account of the compiled program."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import jax

from byzjax.sharding import RUNS
from byzjax.storage.chunk_store import Arrays
from byzjax.sweeps.grid import Points
from byzjax.sweeps.progress import SweepProgress
from byzjax.sweeps.tracing import Device, TracedProgram, compile_runs

HEADROOM = 0.8  # of the memory that is free now; allocators fragment, and others come and go
MIN_CHUNKS = 8  # of a sweep, so that there is progress to see and to keep
# On a CPU runs share no launch: beyond the cache a wider chunk is not faster, and there is less to resume from.
CACHE = 2 << 20
ATTEMPTS = 3  # compilations that a batch size is worth


class Compiler:
    """Compiles cells, those that differ in constants alone once for a batch size, and keeps the time.

    Args:
      points: axis -> values.
      mesh: that runs are laid on, or None.
    """

    def __init__(self, points: Points, mesh: jax.sharding.Mesh | None):
        self.seconds = 0.0
        self.mesh, self._points = mesh, points
        self.device: Device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
        self.shares = 1 if mesh is None else mesh.shape[RUNS]
        self._compiled: dict[tuple[str, int], jax.stages.Compiled] = {}
        self._placed: dict[int, jax.Array] = {}

    def compile(self, program: TracedProgram, size: int, label: str, display: SweepProgress) -> jax.stages.Compiled:
        """The program of ``size`` runs."""
        key = program.executable, size
        if key not in self._compiled:
            start = time.perf_counter()
            with display.compiling(label):
                self._compiled[key] = compile_runs(program, self._points, size, self.mesh)
            self.seconds += time.perf_counter() - start
        return self._compiled[key]

    def launch(
        self, program: TracedProgram, size: int, label: str, display: SweepProgress
    ) -> Callable[[Points], Arrays]:
        """The program of ``size`` runs as a function of their values."""
        compiled, constants = self.compile(program, size, label, display), [self._place(c) for c in program.constants]
        return lambda points: jax.device_get(compiled(constants, points))

    def _place(self, constant: jax.Array) -> jax.Array:
        """On all devices of the mesh, once for all cells that share it."""
        if self.mesh is None:
            return constant
        if id(constant) not in self._placed:
            whole = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
            self._placed[id(constant)] = jax.device_put(constant, whole)
        return self._placed[id(constant)]

    def batch_size(self, program: TracedProgram, num_runs: int, cells: int, label: str, display: SweepProgress) -> int:
        """Runs per chunk: what is useful, as far as it fits."""
        share = -(-num_runs // self.shares)
        devices = [self.device] if self.mesh is None else list(self.mesh.local_devices)
        workers = concurrency(self.device, self.mesh, max(MIN_CHUNKS, cells))
        budget = HEADROOM * min(free_memory(device) for device in devices) / workers
        if self.device.platform == "cpu":
            budget /= len(devices)  # virtual ones share the memory
        most = min(CACHE, budget) if self.device.platform == "cpu" else budget
        per_device, _ = fitting(
            lambda size: self.compile(program, size * self.shares, label, display),
            lambda compiled: load(compiled, self.device, budget),
            first=int(most / max(program.widest + program.run_bytes(), 1)),
            most=useful(share, cells),
        )
        return per_device * self.shares


def power_of_two(number: float) -> int:
    """The largest power of two that is at most ``number``, and at least 1.

    >>> power_of_two(100), power_of_two(0.3)
    (64, 1)
    """
    return 1 << max(0, int(number).bit_length() - 1)


def concurrency(device: Device, mesh: jax.sharding.Mesh | None, chunks: int) -> int:
    """How many chunks run at once.

    One program of many small runs keeps about one core busy, so on a CPU there is one for every core. An accelerator
    is busy with one.
    """
    if device.platform != "cpu" or mesh is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, chunks))


def useful(runs: int, cells: int) -> int:
    """The largest power of two that leaves a sweep `MIN_CHUNKS` chunks, as far as its runs go that far.

    >>> useful(1000, 1), useful(1000, 20), useful(3, 20)
    (64, 1024, 4)
    """
    all_at_once = 1 << (runs - 1).bit_length()
    return min(power_of_two(runs * cells / MIN_CHUNKS), all_at_once)


def fitting(
    compile: Callable[[int], jax.stages.Compiled],
    load: Callable[[jax.stages.Compiled], float],
    *,
    first: int,
    most: int,
) -> tuple[int, jax.stages.Compiled]:
    """Find the largest power of two of runs whose program does not ask for too much.

    Args:
      compile: the program of so many runs.
      load: what a program asks for, as a fraction of what it may.
      first: runs to begin with, an estimate; the better, the fewer compilations.
      most: runs that are useful at all, a power of two.

    Returns:
      The number of runs, and their program. One run is the least, even if it asks for too much.
    """
    programs: dict[int, jax.stages.Compiled] = {}
    loads: dict[int, float] = {}
    size = min(power_of_two(first), most)
    for _ in range(ATTEMPTS):
        if size in programs:
            break
        programs[size] = compile(size)
        loads[size] = load(programs[size])
        predicted = min(most, _predicted(loads))
        # After one program it is not known yet what one needs without any run.
        fits_exactly = len(loads) == 1 and predicted == size < most and loads[size] <= 1
        size = 2 * size if fits_exactly else predicted
    largest = max((size for size, asked in loads.items() if asked <= 1), default=1)
    return largest, programs[largest] if largest in programs else compile(largest)


def _predicted(loads: dict[int, float]) -> int:
    """Runs that are just not too many: on the line through the two sizes last tried, or through one and the origin."""
    (small, least), *others = sorted(loads.items())[-2:]
    slope, fixed = least / small, 0.0
    for large, most in others:
        slope = (most - least) / (large - small)
        fixed = least - slope * small
    return power_of_two((1 - fixed) / slope) if slope > 0 else 1 << 30


def load(compiled: jax.stages.Compiled, device: Device, budget: float) -> float:
    """What a program of many runs asks for, as a fraction of what it may, by XLA's analysis of its memory.

    Args:
      compiled: the program.
      device: that it runs on.
      budget: bytes that its temporaries and results may take.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        return 0.0
    asked = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / max(budget, 1.0)
    return max(asked, memory.temp_size_in_bytes / CACHE) if device.platform == "cpu" else asked


def free_memory(device: Device) -> float:
    """Bytes that are free on a device; of a CPU, what the system says is available to this process."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return host_memory()


def host_memory() -> float:
    """Bytes that this process may still take, as far as the system tells."""
    return min(_available(), _allowed())


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * kilobytes[0] if kilobytes else float("inf")


def _allowed() -> float:
    """What a container's limit leaves."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = ((root / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        lines = (root / "memory.stat").read_text().splitlines()
    except OSError:
        return float("inf")
    cached = sum(float(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return float("inf") if limit == "max" else float(limit) - float(used) + cached
