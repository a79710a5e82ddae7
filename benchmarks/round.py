"""Speed and memory of one Byzantine round on the MNIST MLP, beside a plain round, ByzFL 0.0.11 and the floor.

``python benchmarks/round.py`` prints a table and JSON and writes both to ``benchmarks/results``; ``--quick`` is a
smoke run. README.md says how to install the peer, and what is and is not the same work.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _peers import load, versions
from _timing import Arm, Fixed, Timing, interleaved, label, machine, table

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks
from byzjax.rng import round_keys

N, F, BATCH, BETA, LEARNING_RATE, IPM = 20, 3, 64, 0.9, 0.1, 10.0
DIM = 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
STACK_BYTES = 4 * N * DIM
RULES = {"mean": agg.mean(), "nnm+rfa": byzjax.chain(agg.nnm(f=F), agg.geometric_median())}
ATTACKS = {"none": attacks.none(), "ipm": attacks.ipm(scale=IPM)}
RECORDS = {"all metrics": metrics.default_record, "loss only": metrics.record("loss")}
GOALS = {"byzantine_over_plain": 1.6, "byzfl_over_byzjax": 10.0, "compile_s": 10.0, "peak_stacks": 6.0}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: few repetitions, nothing written")
    options.add_argument("--no-peers", action="store_true", help="byzjax alone, nothing written")
    options.add_argument("--reps", type=int, help="repetitions (15; 3 with --quick)")
    options.add_argument("--rounds", type=int, help="rounds per byzjax scan (20; 3 with --quick)")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    reps = args.reps or (3 if args.quick else 15)
    rounds = args.rounds or (3 if args.quick else 20)

    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    report: dict[str, Any] = {"machine": machine()}
    peers = {} if args.no_peers else load("byzfl")
    if not peers:
        print("ByzFL is left out: not asked for, not installed, or no GPU build of torch (benchmarks/README.md).")
    report["versions"] = versions(peers)
    report["settings"] = {
        "n": N, "f": F, "d": DIM, "batch_size": BATCH, "beta": BETA, "ipm_scale": IPM, "split": "label-sorted",
        "method": "momentum_sgd", "rounds_per_scan": rounds, "repetitions": reps,
    }  # fmt: skip

    task = tasks.mnist(num_workers=N, num_byzantine=F, batch_size=BATCH)
    report["compile"] = compile_time(task, repeats=1 if args.quick else 3)
    arms, report["memory"] = byzjax_arms(task, rounds)
    stacks = gaussian_stacks()
    arms |= rule_arms(stacks)
    if peers:
        report["rule_agreement"] = agreement(peers, stacks[0])
        arms |= byzfl_arms(peers, task, stacks, rounds=1 if args.quick else 3)

    timings = interleaved(arms, reps)
    report["timings"] = {name: timing.milliseconds() for name, timing in timings.items()}
    report["ratios"] = ratios(timings)
    report["goals"] = goals(report)
    text = render(report)
    print(text, json.dumps(report, indent=2), sep="\n")

    out = args.out or (None if args.quick or not peers else Path(__file__).parent / "results")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = f"round-{label(report['machine'])}"
        (out / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
        (out / f"{stem}.md").write_text(text)


def byzjax_arms(task: byzjax.Task, rounds: int) -> tuple[dict[str, Arm], dict[str, Any]]:
    """Whole rounds inside one compiled scan, from a state with warm momenta; and what they need in memory."""
    byzantine = jnp.arange(N) >= N - F
    arms, memory, lowered = {}, {}, {}
    for rule, attack, record in [(r, a, m) for m in RECORDS for r in RULES for a in ATTACKS]:
        method = methods.momentum_sgd(LEARNING_RATE, aggregator=RULES[rule], beta=BETA)

        def scan(task, state, method=method, attack=ATTACKS[attack], record=RECORDS[record]):
            return byzjax.simulate(
                task, method, attack, byzantine=byzantine, key=state.key, num_rounds=rounds, record=record, state=state
            )

        state = byzjax.init_state(task, method, ATTACKS[attack], key=jax.random.key(0))
        # `byzjax.run` donates the state, so memory is that of the donating program.
        jitted = jax.jit(scan), jax.jit(scan, donate_argnames="state")
        lowered[f"byzjax round, {rule}, {attack}, {record}"] = state, [one.lower(task, state) for one in jitted]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # compilation of these is not measured
        compiling = {
            name: (state, [pool.submit(one.compile) for one in both]) for name, (state, both) in lowered.items()
        }
    for name, (state, both) in compiling.items():
        go, donating = (one.result() for one in both)
        # From here on every call starts from the same state: a plain mean under attack may diverge.
        state = jax.block_until_ready(go(task, state)).state
        arms[name] = Arm(lambda go=go, state=state: jax.block_until_ready(go(task, state)), rounds)
        memory[name] = memory_use(donating, state)

    @jax.jit
    def gradients(task, params, key):
        def step(carry, k):
            keys = round_keys(key, k)
            batch = task.sample(task.data, keys.data)
            value_and_grad = jax.vmap(jax.value_and_grad(task.loss), in_axes=(None, 0, 0))
            _, grads = value_and_grad(params, batch, jax.random.split(keys.model, N))
            return grads, None

        start = jax.tree.map(lambda p: jnp.zeros((N, *p.shape), p.dtype), params)
        return jax.lax.scan(step, start, jnp.arange(rounds))[0]

    key = jax.random.key(0)
    params = task.init(key)
    arms["byzjax, sampling and gradients only"] = Arm(
        lambda: jax.block_until_ready(gradients(task, params, key)), rounds
    )
    return arms, memory


def memory_use(compiled: Any, state: Any) -> dict[str, Any] | None:
    """Bytes that a compiled scan needs beside the data set: its state, its temporaries, its other results."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    fresh = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        "state_bytes": held,
        "temp_bytes": stats.temp_size_in_bytes,
        "other_output_bytes": fresh,
        "peak_stacks": round((held + stats.temp_size_in_bytes + fresh) / STACK_BYTES, 3),
    }


def compile_time(task: byzjax.Task, repeats: int) -> dict[str, Any]:
    """Seconds to trace and compile a whole run of 1,000 rounds with an evaluation every 30."""
    byzantine = jnp.arange(N) >= N - F
    seconds = []
    for _ in range(repeats):
        jax.clear_caches()
        method = methods.momentum_sgd(LEARNING_RATE, aggregator=RULES["nnm+rfa"], beta=BETA)
        run = jax.jit(
            lambda task, key, method=method: byzjax.simulate(
                task, method, ATTACKS["ipm"], byzantine=byzantine, key=key, num_rounds=1000, eval_every=30
            )
        )
        start = time.perf_counter()
        lowered = run.lower(task, jax.random.key(0))
        middle = time.perf_counter()
        lowered.compile()
        seconds.append((time.perf_counter() - start, middle - start))
    total, trace = np.array(seconds).T
    return {
        "total_s": round(float(np.median(total)), 2),
        "total_min_s": round(float(total.min()), 2),
        "total_max_s": round(float(total.max()), 2),
        "of_which_tracing_s": round(float(np.median(trace)), 2),
    }


def gaussian_stacks(count: int = 8) -> list[np.ndarray]:
    """Stacks [n, d] for rules alone, together larger than the caches: a common part, spread, and IPM in the last f."""
    rng = np.random.default_rng(0)
    stacks = []
    for _ in range(count):
        x = (rng.normal(size=DIM) + rng.normal(size=(N, DIM))).astype(np.float32)
        x[N - F :] = -IPM * x[: N - F].mean(0)
        stacks.append(x)
    return stacks


def rule_arms(stacks: list[np.ndarray]) -> dict[str, Arm]:
    on_device = [jnp.asarray(x) for x in stacks]
    rule = jax.jit(lambda x: byzjax.aggregate(RULES["nnm+rfa"], x))
    copy = jax.jit(jnp.copy)
    return {
        "copy of the stack (the floor)": Arm(lambda: [copy(x).block_until_ready() for x in on_device], len(stacks)),
        "byzjax nnm+rfa alone, 8 steps": Arm(lambda: [rule(x).block_until_ready() for x in on_device], len(stacks)),
    }


def byzfl_arms(peers: dict[str, Any], task: byzjax.Task, stacks: list[np.ndarray], rounds: int) -> dict[str, Arm]:
    torch = peers["torch"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = (np.asarray(task.data["images"], np.float32).reshape(-1, 784) / 255 - 0.1307) / 0.3081
    labels = np.asarray(task.data["labels"])
    pool, rows = np.asarray(task.data["table"]), np.asarray(task.data["sizes"])
    shards = [
        tuple(torch.from_numpy(part[pool[i, : rows[i]]]).to(device) for part in (images, labels.astype(np.int64)))
        for i in range(N - F)
    ]

    def several(one_round: Callable[[], None]) -> Callable[[], None]:
        return lambda: [one_round() for _ in range(rounds)]

    arms = {
        f"ByzFL round, {rule}, {attack}": Arm(several(byzfl_round(peers, shards, device, rule, attack)), rounds)
        for rule in RULES
        for attack in ATTACKS
    }
    tensors = [torch.from_numpy(x).to(device) for x in stacks]
    rule = byzfl_rule(peers, num_iters=3)

    def alone() -> None:
        for x in tensors:
            rule(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return arms | {"ByzFL nnm+rfa alone, 3 steps": Arm(alone, len(tensors))}


def byzfl_round(peers: dict[str, Any], shards: list, device: str, rule: str, attack: str) -> Callable[[], None]:
    """One round with ByzFL's own clients, attack, rules and server, line for line its ``benchmark/train.py``."""
    torch, byzfl = peers["torch"], peers["byzfl"]
    nn = torch.nn
    # Clients and server look models up by name in this module.
    byzfl.fed_framework.models.mlp = lambda: nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    common = {
        "model_name": "mlp", "device": device, "optimizer_name": "SGD", "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0, "milestones": [], "learning_rate_decay": 1.0,
    }  # fmt: skip
    own = {
        "loss_name": "CrossEntropyLoss", "LabelFlipping": False, "nb_labels": 10, "momentum": BETA,
        "store_per_client_metrics": False,
    }  # fmt: skip

    class Batches(torch.utils.data.Dataset):
        """Indexed by a whole batch, already scaled and in memory: ByzFL pays no transform and no collation here."""

        def __init__(self, shard):
            self.shard = shard

        def __len__(self):
            return len(self.shard[0])

        def __getitem__(self, index):
            index = torch.tensor(index, device=device)
            return self.shard[0][index], self.shard[1][index]

    def loader(shard):
        batches = Batches(shard)
        draw = torch.utils.data.RandomSampler(batches, replacement=True, num_samples=BATCH * 10_000)
        return torch.utils.data.DataLoader(
            batches, sampler=torch.utils.data.BatchSampler(draw, BATCH, drop_last=True), batch_size=None
        )

    loaders = [loader(shard) for shard in shards]
    clients = [byzfl.Client(common | own | {"training_dataloader": data}) for data in loaders]
    robust = rule == "nnm+rfa"
    server = byzfl.Server(
        common
        | {
            "test_loader": loaders[0],
            "aggregator_info": {"name": "GeometricMedian" if robust else "Average", "parameters": {}},
            "pre_agg_list": [{"name": "NNM", "parameters": {"f": F}}] if robust else [],
        }
    )
    liars = byzfl.ByzantineClient({"name": "InnerProductManipulation", "f": F, "parameters": {"tau": IPM}})

    def broadcast() -> None:
        state = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(state)

    def one_round() -> None:
        for client in clients:
            client.compute_gradients()
        honest = [client.get_flat_gradients_with_momentum() for client in clients]
        sent = honest[-F:] if attack == "none" else liars.apply_attack(honest)
        server.update_model_with_gradients(honest + sent)
        broadcast()
        if device == "cuda":
            torch.cuda.synchronize()

    broadcast()
    return one_round


def byzfl_rule(peers: dict[str, Any], num_iters: int) -> Callable[[Any], Any]:
    mixing, median = peers["byzfl"].NNM(F), peers["byzfl"].GeometricMedian(nu=0.1, T=num_iters)
    return lambda x: median(mixing(x))


def agreement(peers: dict[str, Any], x: np.ndarray) -> float:
    """Relative difference of the two libraries' NNM + geometric median, both with 8 steps: the same rule is timed."""
    theirs = np.asarray(byzfl_rule(peers, num_iters=8)(peers["torch"].from_numpy(x)))
    ours = np.asarray(byzjax.aggregate(RULES["nnm+rfa"], x))
    return float(f"{np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.2g}")


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Ratios of medians. Both arms of a ratio have the same attack and record the same."""
    t = {name: timing.median for name, timing in timings.items()}
    result = {
        f"Byzantine / plain, {attack}, {record}": t[f"byzjax round, nnm+rfa, {attack}, {record}"]
        / t[f"byzjax round, mean, {attack}, {record}"]
        for attack in ATTACKS
        for record in RECORDS
    }
    for rule in RULES:
        for attack in ATTACKS:
            if f"ByzFL round, {rule}, {attack}" in t:
                # ByzFL computes the clients' losses and nothing else: the recorder is "loss only".
                ours = t[f"byzjax round, {rule}, {attack}, loss only"]
                result[f"ByzFL / byzjax, {rule}, {attack}"] = t[f"ByzFL round, {rule}, {attack}"] / ours
    if "ByzFL nnm+rfa alone, 3 steps" in t:
        result["ByzFL / byzjax, nnm+rfa alone"] = t["ByzFL nnm+rfa alone, 3 steps"] / t["byzjax nnm+rfa alone, 8 steps"]
    return {name: round(value, 3) for name, value in result.items()}


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for, what was measured; the worst case of the ratios, not the best."""
    found = report["ratios"]
    plain = {k: v for k, v in found.items() if k.startswith("Byzantine / plain, ipm")}
    byzfl = {k: v for k, v in found.items() if k.startswith("ByzFL / byzjax, nnm+rfa, ")}
    peaks = [m["peak_stacks"] for name, m in report["memory"].items() if m and "nnm+rfa" in name]
    measured = [
        *[(name, value, "≤", GOALS["byzantine_over_plain"]) for name, value in plain.items()],
        *[(name, value, "≥", GOALS["byzfl_over_byzjax"]) for name, value in byzfl.items()],
        ("compile a whole run, s", report["compile"]["total_s"], "≤", GOALS["compile_s"]),
        ("peak of a Byzantine round, n × d stacks", max(peaks, default=None), "≤", GOALS["peak_stacks"]),
    ]
    return [
        {
            "what": what,
            "measured": value,
            "goal": f"{sense} {goal:g}",
            "met": None if value is None else value <= goal if sense == "≤" else value >= goal,
        }
        for what, value, sense, goal in measured
    ]


def render(report: dict[str, Any]) -> str:
    m, s, c = report["machine"], report["settings"], report["compile"]
    verdict = {True: "yes", False: "NO", None: "not measured"}
    parts = [
        "# One round on the MNIST MLP",
        f"{m['cores']} cores, {m['cpu']}, on {m['device']}; load of the machine before the run {m['load_before']}. "
        f"n = {s['n']}, f = {s['f']}, d = {s['d']}, batch {s['batch_size']}, label-sorted, float32; medians of "
        f"{s['repetitions']} interleaved repetitions, scans of {s['rounds_per_scan']} rounds.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
        table(
            ("goal", "measured", "asked", "met"),
            [(g["what"], g["measured"], g["goal"], verdict[g["met"]]) for g in report["goals"]],
        ),
        table(
            ("milliseconds", "median", "min", "max"),
            [(name, *(Fixed(t[f"{k}_ms"]) for k in ("median", "min", "max"))) for name, t in report["timings"].items()],
        ),
        table(("ratio of medians", "×"), [(name, Fixed(value)) for name, value in report["ratios"].items()]),
        table(
            ("memory beside the data set, MB", "state", "temporaries", "peak in stacks"),
            [
                (name, Fixed(x["state_bytes"] / 1e6), Fixed(x["temp_bytes"] / 1e6), Fixed(x["peak_stacks"]))
                for name, x in report["memory"].items()
                if x
            ],
        ),
        f"Compiling a run of 1,000 rounds with an evaluation every 30: {c['total_s']} s "
        f"({c['total_min_s']} to {c['total_max_s']}), of which tracing and lowering {c['of_which_tracing_s']} s.",
    ]
    if "rule_agreement" in report:
        parts.append(
            "NNM + geometric median with 8 steps, byzjax against ByzFL: relative difference "
            f"{report['rule_agreement']:g}."
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
