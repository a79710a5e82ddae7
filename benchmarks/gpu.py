"""All that a machine with an accelerator is asked for: steps of known length, the most valuable first.

    python benchmarks/gpu.py --budget 500 --out DIR --dry-run    # the plan
    python benchmarks/gpu.py --budget 500 --out DIR              # as many steps as fit; the same again goes on
    python benchmarks/gpu.py --quick --out DIR                   # every step at a reduced size, on any machine

Every step is a process with a time limit, and writes to ``DIR/NAME.log``. What became of it is in
``DIR/summary.json``, and all of DIR, small files only, in ``DIR/results.tar.gz``: both are renewed after each step, so
that whoever is cut off has them. To go on elsewhere, unpack the archive into a folder and name it with ``--out``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 2.0  # times its estimate after which a step is cut
LEAST = 30.0  # seconds that a step which goes on later needs to get anywhere: starting and compiling
GRACE = 15.0  # seconds from being interrupted to being killed: runs in flight are finished and kept
RESERVE = 5.0  # seconds of the budget that no step gets: for the archive
PROBE = 120.0  # seconds within which JAX has to find its device
BIG = 15 << 20  # bytes beyond which an archive may not be brought back
SINGLE, SEVERAL = "not shard and not explicit_axes", "shard or explicit_axes"  # tests for one device, and for eight
TEXT = "BYZJAX_TINY_SHAKESPEARE"


class Step(NamedTuple):
    """Something to be run.

    Attributes:
      name: its letter, a dash, and what it is.
      seconds: how long all of it takes on a data centre's GPU, an estimate.
      command: with its arguments.
      brings: what is known afterwards.
      resumes: whether it goes on from what it stored when it was cut.
      most: seconds that it gets in one turn, so that a long one leaves something to those after it.
      lacks: what the machine needs and has not, in words; empty where it has all.
      env: environment variables beside those of this process.
    """

    name: str
    seconds: float
    command: Sequence[str]
    brings: str
    resumes: bool = False
    most: float = math.inf
    lacks: Callable[[], str] = lambda: ""
    env: Mapping[str, str] = {}


class Planned(NamedTuple):
    """A step in the plan: ``verdict`` says whether it fits, ``seconds`` how long it is expected to take."""

    step: Step
    verdict: str
    seconds: float


def modules(*names: str) -> Callable[[], str]:
    """What is lacking of some Python packages."""

    def lacks() -> str:
        return " and ".join(name for name in names if find_spec(name) is None)

    return lacks


def text() -> str:
    """What is lacking of the released language model's text."""
    found = os.environ.get(TEXT) or find_spec("tensorflow_datasets")
    return modules("xarray", "h5netcdf")() or ("" if found else f"tiny Shakespeare (${TEXT})")


def peers_on(out: Path) -> Callable[[], str]:
    """What is lacking of the peers: torch has to see the accelerator, too, which only the device's file says."""

    def lacks() -> str:
        if missing := modules("torch", "byzfl")():
            return missing
        device = out / "device.json"
        found = json.loads(device.read_text()) if device.exists() else None
        blind = found is not None and found["platform"] != "cpu" and not found["torch_cuda"]
        return "a torch with CUDA" if blind else ""

    return lacks


def steps(out: Path, quick: bool, code_version: str | None = None, jobs: int | None = None) -> list[Step]:
    """The programme.

    Args:
      out: where steps put what they find.
      quick: at a reduced size, for any machine.
      code_version: of the runs that are stored, see `byzjax.sweep`.
      jobs: processes that share the device where programs take longer to compile than to run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or max(1, min(6, cores // 2 - 1))
    small = ["--quick"] if quick else []
    version = ["--code-version", code_version] if code_version else []

    def script(name: str, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments, *small]

    def cells(experiment: str, variant: str, *arguments: str, jobs: int = jobs) -> list[str]:
        where = str(out / "store")
        return script("cells", experiment, variant, where, *arguments, "--jobs", str(jobs), *version)

    def tests(*paths: str, chosen: str, few: str) -> list[str]:
        several = ["-n", str(jobs)] if find_spec("xdist") and jobs > 1 else []
        options = ["-q", "-p", "no:cacheprovider", "--no-header", *several, "-k", few if quick else chosen]
        return [sys.executable, "-m", "pytest", *options, *(f"tests/{path}" for path in paths)]

    stored, tested = modules("xarray", "h5netcdf"), modules("pytest", "pytest_timeout")
    # ByzFL's SMEA and MDA take minutes a call, whatever the device.
    rules = "mean,median,trimmed_mean,meamed,krum,multi_krum,geometric_median,centered_clipping,monna,caf,nnm,arc"
    peers = ["--only", "median,krum,nnm"] if quick else ["--only", rules, "--reps", "3"]
    big = [] if quick else ["--rounds", "100", "--reps", "5"]

    def seconds(full: float, reduced: float) -> float:
        return reduced if quick else full

    def turn(most: float) -> float:
        return math.inf if quick else most

    return [
        Step(
            "a-accuracy", seconds(100, 200), script("accuracy", "--out", str(out / "a")),
            "rules, distances and order statistics: error beside float64, time beside a copy, and no TF32", True,
        ),
        Step(
            "b-round", seconds(110, 150), script("round", *big, "--out", str(out / "b")),
            "a round beside a plain one, and beside ByzFL where its torch has CUDA",
        ),
        Step(
            "b-rules", seconds(130, 120), script("aggregators", *peers, "--out", str(out / "b")),
            "rules beside ByzFL, alone and after NNM", lacks=peers_on(out),
        ),
        Step(
            "c-batch-size", seconds(110, 60), script("batch_size", "--out", str(out / "c")),
            "runs a second against runs side by side, quartic and MNIST", True,
        ),
        Step(
            "d-mnist-paper", seconds(240, 240), cells("mnist", "paper", "--references"),
            "Table 1's MNIST as the text says: 9 cases, 3 methods, 6 rates, 3 seeds, and 216 references", True,
            lacks=stored,
        ),
        Step(
            "e-language-released", seconds(3600, 240),
            cells("shakespeare", "released", "--rates", "published", "--side-by-side", "1", jobs=1),
            "Table 1's language model as released, 27 cells at the authors' rates", True, turn(180),
            lacks=stored if quick else text,
        ),
        Step(
            "f-mnist-released", seconds(1200, 240), cells("mnist", "released", "--rates", "published"),
            "Table 1's MNIST as released, 27 cells at the authors' rates", True, turn(90), lacks=stored,
        ),
        Step(
            "g-rules", seconds(150, 90),
            tests("stacked", "aggregators", chosen=SINGLE, few="network_sorts or masked"),
            "tests of rules and of what they are made of", lacks=tested,
        ),
        Step(
            "g-contracts", seconds(240, 120), tests("contracts", chosen=SINGLE, few="agrees_with_float64 and median"),
            "contracts of all rules and attacks", lacks=tested,
        ),
        Step(
            # Eight devices are wanted, and a machine with one accelerator has them only as virtual ones of its CPU.
            "g-sharding", seconds(180, 120),
            tests("test_sharding.py", "contracts", chosen=SEVERAL, few="one_device_changes_nothing"),
            "sharding, on eight virtual devices of the CPU", lacks=tested, env={"JAX_PLATFORMS": "cpu"},
        ),
        Step(
            "h-lmo", seconds(60, 60), script("lmo", "--out", str(out / "h")),
            "spectral steps at 4096 × 4096 by Newton–Schulz, polar and cuSOLVER's SVD",
        ),
        Step(
            "h-lmo-study", seconds(1200, 240),
            [
                sys.executable, "-m", "byzjax", "reproduce", "lmo", "--store", str(out / "store"), *small, *version,
            ],
            "the study of server steps on MNIST and the small GPT", True, turn(180), lacks=stored,
        ),
        Step(
            "h-ablation-released", seconds(600, 200), cells("ablation", "released"),
            "Figure 1's momenta as released", True, turn(120), lacks=stored,
        ),
        Step(
            "h-scaling", seconds(240, 150), script("scaling", "--out", str(out / "h")),
            "time and memory as n and d grow",
        ),
    ]  # fmt: skip


def given(step: Step, left: float) -> float:
    """Seconds after which a step is cut, where so many are left of the budget; 0 where that is too little to begin."""
    if step.resumes:
        limit = min(step.most, PATIENCE * step.seconds, left)
        return limit if limit >= min(LEAST, step.seconds) else 0.0
    return min(PATIENCE * step.seconds, left) if step.seconds <= left else 0.0


def plan(chosen: Sequence[Step], budget: float, known: Mapping[str, Any]) -> list[Planned]:
    """What is expected of a call: steps that are done are skipped, those that do not fit are passed over."""
    left, planned = budget - RESERVE, []
    for step in chosen:
        limit, missing = given(step, left), step.lacks()
        verdict = (
            "done" if is_done(step, known)
            else f"lacks {missing}" if missing
            else "does not fit" if not limit
            else "fits" if step.seconds <= limit
            else "in part"
        )  # fmt: skip
        takes = min(step.seconds, limit) if verdict in ("fits", "in part") else 0.0
        planned.append(Planned(step, verdict, takes))
        left -= takes
    return planned


def is_done(step: Step, known: Mapping[str, Any]) -> bool:
    """Whether an earlier call finished it."""
    return known.get(step.name, {}).get("status") == "done"


def describe(planned: Sequence[Planned], budget: float) -> str:
    """The plan for people."""
    width = max(len(p.step.name) for p in planned)
    lines = [
        f"{p.step.name:{width}}  {p.step.seconds:5.0f} s  {p.seconds:5.0f} s  {p.verdict:12}  {p.step.brings}"
        for p in planned
    ]
    header = f"{'step':{width}}  {'whole':>7}  {'gets':>7}  {'':12}  brings"
    total = sum(p.seconds for p in planned)
    return "\n".join([header, *lines, f"{total:.0f} of {budget:.0f} s, by estimate"])


def execute(step: Step, limit: float, log: Path) -> tuple[str, int | None]:
    """Run a step for so many seconds at most: its status (done, failed, cut) and return code.

    It has a process group of its own, so that nothing it started outlives it, but no session: whoever ends this
    process's session ends it, too.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg", **step.env}
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(step.command)}\n".encode())
        file.flush()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            child = subprocess.Popen(
                step.command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, cwd=ROOT, process_group=0
            )
        except OSError as error:
            file.write(f"{error}\n".encode())
            return "failed", None
        grace = min(GRACE, limit / 3)
        try:
            code = child.wait(limit - grace)
            return ("failed" if code else "done"), code
        except subprocess.TimeoutExpired:
            tell(child, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace)
            return ("done" if child.returncode == 0 else "cut"), child.returncode  # it may have ended just in time
        finally:
            tell(child, signal.SIGKILL)
            child.wait()


def tell(child: subprocess.Popen, what: signal.Signals) -> None:
    """Send a signal to a step and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, what)


class Record:
    """``summary.json`` of a folder: what became of every step, and what every call ran on."""

    def __init__(self, out: Path, size: str):
        """Args: out, the folder; size, of the steps, which a folder has only one of."""
        self.out, self.path = out, out / "summary.json"
        self.values: dict[str, Any] = {"size": size, "calls": [], "steps": {}}
        if self.path.exists():
            self.values = json.loads(self.path.read_text())
            if self.values["size"] != size:
                raise ValueError(f"{out} holds steps at the size {self.values['size']!r}, not {size!r}")

    @property
    def steps(self) -> dict[str, Any]:
        """By name."""
        return self.values["steps"]

    def began(self, device: Mapping[str, Any], budget: float) -> None:
        """Another call."""
        self.values["calls"].append({"began": time.strftime("%F %T %z"), "budget": budget, "device": dict(device)})
        self.write()

    def ended(self, step: Step, status: str, seconds: float, code: int | None) -> None:
        """A step, in this call; seconds add up over calls."""
        before = self.steps.get(step.name, {})
        self.steps[step.name] = {
            "status": status,
            "seconds": round(before.get("seconds", 0.0) + seconds, 1),
            "returncode": code,
            "estimate": step.seconds,
            "calls": [*before.get("calls", []), len(self.values["calls"])],
            "brings": step.brings,
        }
        self.write()

    def write(self) -> None:
        """All or nothing: a reader finds the old file or the new one."""
        partial = self.path.with_suffix(".json.partial")
        partial.write_text(json.dumps(self.values, indent=1) + "\n")
        partial.replace(self.path)


def pack(out: Path, archive: Path) -> int:
    """All that is in a folder as one archive, all or nothing, without what only processes at work need; its bytes."""

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = Path(member.name)
        unwanted = path.suffix == ".partial" or path.name.endswith(".tar.gz") or "claims" in path.parts
        return None if unwanted else member

    partial = archive.with_name(archive.name + ".partial")
    with tarfile.open(partial, "w:gz") as tar:
        for path in sorted(out.iterdir()):
            tar.add(path, path.name, filter=wanted)
    partial.replace(archive)
    return archive.stat().st_size


def run(chosen: Sequence[Step], budget: float, record: Record, archive: Path, began: float) -> None:
    """All steps that fit, once; then those that go on, again, as long as time is left."""

    def left() -> float:
        return budget - RESERVE - (time.monotonic() - began)

    waiting = [step for step in chosen if not is_done(step, record.steps)]
    while waiting:
        again = []
        for step in waiting:
            if missing := step.lacks():
                record.ended(step, f"lacks {missing}", 0.0, None)
                print(f"{step.name}: left out, this machine lacks {missing}", flush=True)
                continue
            limit = given(step, left())
            if not limit:
                print(f"{step.name}: left out, {left():.0f} s are left", flush=True)
                continue
            start = time.monotonic()
            status, code = execute(step, limit, record.out / f"{step.name}.log")
            seconds = time.monotonic() - start
            record.ended(step, status, seconds, code)
            size = pack(record.out, archive)
            print(f"{step.name}: {status} after {seconds:.0f} s, {left():.0f} s are left", flush=True)
            if size > BIG:
                print(f"{archive} has {size / 2**20:.0f} MiB: perhaps too much to be brought back", flush=True)
            if status == "cut" and step.resumes:
                again.append(step)
        waiting = again


def probe(out: Path) -> dict[str, Any]:
    """What the machine has, told by a process that ends before the steps begin.

    Raises:
      ValueError: JAX does not start.
    """
    log = out / "device.log"
    log.unlink(missing_ok=True)
    found = out / "device.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "_device.py")]
    status, _ = execute(Step("device", PROBE, command, "what it is"), PROBE, log)
    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
    if status != "done":
        raise ValueError(f"JAX does not start ({last}); see {log}")
    found.write_text(last + "\n")
    return json.loads(last)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Step]]:
    """What was asked for, and its steps; ends the process where that makes no sense."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=500.0, metavar="SECONDS", help="of this call (500)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of an earlier call: go on with it")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="in place of DIR/results.tar.gz")
    parser.add_argument("--only", metavar="a,c", help="these steps, by letter or name")
    parser.add_argument("--quick", action="store_true", help="every step at a reduced size")
    parser.add_argument("--jobs", type=int, help="processes that share the device while they compile (1 to 6)")
    parser.add_argument("--slower", type=float, default=1.0, metavar="TIMES", help="than the estimates suppose (1)")
    parser.add_argument("--code-version", help="of stored runs, in place of the hash of byzjax's source")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    args = parser.parse_args(argv)
    if not RESERVE < args.budget < math.inf:
        parser.error(f"--budget {args.budget:g} must be a number of seconds above {RESERVE:g}")
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs {args.jobs} must be at least 1")
    if not 0 < args.slower < math.inf:
        parser.error(f"--slower {args.slower:g} must be a number above 0")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is not a folder")
    args.out = args.out.resolve()
    args.archive = (args.archive or args.out / "results.tar.gz").resolve()
    chosen = steps(args.out, args.quick, args.code_version, args.jobs)
    chosen = [step._replace(seconds=args.slower * step.seconds, most=args.slower * step.most) for step in chosen]
    if args.only is not None:
        wanted = args.only.split(",")
        known = {name for step in chosen for name in (step.name, step.name[0])}
        if unknown := [name for name in wanted if name not in known]:
            listed = ", ".join(step.name for step in chosen)
            parser.error(f"--only {','.join(unknown)} is not a step; they are {listed}, or their letters")
        chosen = [step for step in chosen if step.name in wanted or step.name[0] in wanted]
    try:
        args.record = Record(args.out, "quick" if args.quick else "full")
    except (ValueError, KeyError) as error:
        parser.error(f"--out: {error}")
    return args, chosen


def main(argv: Sequence[str] | None = None) -> int:
    """The programme: 0, or 1 where a step failed, 2 where it could not begin."""
    began = time.monotonic()
    args, chosen = arguments(argv)
    record = args.record
    if args.dry_run:
        print(describe(plan(chosen, args.budget, record.steps), args.budget))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `execute`, which ends its step
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        args.archive.parent.mkdir(parents=True, exist_ok=True)
        device = probe(args.out)
        if device["platform"] == "cpu" and not args.quick:
            raise ValueError("JAX sees no accelerator; install jax[cuda12] or jax[tpu], or say --quick")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record.began(device, args.budget)
    print(f"{device['device']}, jax {device['versions']['jax']}; torch with CUDA: {device['torch_cuda']}", flush=True)
    run(chosen, args.budget, record, args.archive, began)
    pack(args.out, args.archive)
    failed = [step.name for step in chosen if record.steps.get(step.name, {}).get("status") == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}; see their logs in {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
