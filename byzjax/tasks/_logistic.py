"""Regularised logistic regression on synthetic data: a strongly convex finite sum whose minimiser is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byzjax.checks import check_integer, check_number
from byzjax.checks.masks import Liars
from byzjax.task import Task
from byzjax.tasks._workers import who_lies
from byzjax.transforms._normalize import global_norm
from byzjax.values import value

_STEPS = 100  # of Newton; ten are enough


@value
def logistic_regression(
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    num_examples: int = 100,
    dim: int = 10,
    l2: float = 0.1,
    heterogeneity: float = 0.0,
    batch_size: int = 1,
    data_seed: int = 0,
) -> Task:
    """``f_i(x) = (1/N) Σ_j log(1 + exp(−b_ij ⟨a_ij, x⟩)) + (λ/2)‖x‖²`` in R^d from x⁰ = 0, with b_ij = ±1.

    ``a_ij = a_j + h a'_ij`` with a_j and a'_ij drawn from N(0, I), and b_ij = 1 with probability 1/(1 + exp(−⟨a_ij, θ +
    h θ_i⟩)), θ and θ_i from N(0, I). At h = 0 all workers hold the same N examples: what a rule cannot know of the
    honest mean is then nothing but noise, and a method without noise comes as near the minimiser as it likes.

    Args:
      num_workers: n.
      num_byzantine: b; the first n − b workers are honest, and the objective is theirs.
      byzantine: who lies, instead of the last b: a mask bool[n], or the numbers of those who do.
      num_examples: N, of each worker.
      dim: d.
      l2: λ > 0, the strong convexity. No f_ij is smoother than ``L = max_ij ‖a_ij‖²/4 + λ``: more than the average,
        d (1 + h²)/4 + λ; 6.84 against 2.6 at the defaults.
      heterogeneity: h ≥ 0.
      batch_size: B, drawn with replacement.
      data_seed: of the data, which belong to the task and not to a run.

    Finite sum: a worker's N examples. Labels are 0 and 1, so `label_flip` works.

    Evaluation, of the honest workers' mean f: the *true* ``gradient_norm``, ``objective``, ``suboptimality``
    f(x) − f(x*) and ``distance`` ‖x − x*‖ to its minimiser, which Newton's method finds in float64 as the task is made.

    Raises:
      ValueError: no honest worker, a size < 1, λ not positive, or h negative.

    >>> task = logistic_regression(5, 1)
    >>> {name: round(float(value), 3) for name, value in task.evaluate(task.data, task.data["minimiser"]).items()}
    {'gradient_norm': 0.0, 'objective': 0.499, 'suboptimality': 0.0, 'distance': 0.0}
    """
    check = "logistic_regression"
    liars = who_lies(num_workers, num_byzantine, byzantine, where=check)
    n = len(liars)
    size, dim = (check_integer(v, name, check, least=1) for v, name in ((num_examples, "num_examples"), (dim, "dim")))
    batch_size = check_integer(batch_size, "batch_size", check, least=1)
    data_seed = check_integer(data_seed, "data_seed", check, least=0)
    check_number(l2, "l2", check, least=0, open_below=True)
    check_number(heterogeneity, "heterogeneity", check, least=0)

    rng = np.random.default_rng(data_seed)
    inputs = rng.normal(size=(1, size, dim)) + heterogeneity * rng.normal(size=(n, size, dim))
    teachers = rng.normal(size=(1, dim)) + heterogeneity * rng.normal(size=(n, dim))
    labels = rng.uniform(size=(1, size)) < _sigmoid(np.einsum("nkd,nd->nk", inputs, teachers))
    minimiser = _minimiser(inputs[~liars].reshape(-1, dim), labels[~liars].ravel(), l2)
    data = {
        "inputs": jnp.asarray(inputs),
        "labels": jnp.asarray(labels, jnp.int32),
        "minimiser": jnp.asarray(minimiser),
    }
    honest = np.flatnonzero(~liars)

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.zeros(dim)

    def examples(data: dict, index: jax.Array) -> dict:
        take = jax.vmap(lambda rows, chosen: rows[chosen])
        return {"input": take(data["inputs"], index), "label": take(data["labels"], index)}

    def sample(data: dict, key: jax.Array) -> dict:
        return examples(data, jax.random.randint(key, (n, batch_size), 0, size, jnp.int32))

    def loss(x: jax.Array, batch: dict, key: jax.Array | None = None) -> jax.Array:
        del key
        inputs = batch["input"].astype(x.dtype)
        entropy = optax.sigmoid_binary_cross_entropy(inputs @ x, batch["label"].astype(x.dtype))
        return entropy.mean() + jnp.asarray(0.5 * l2, x.dtype) * jnp.vdot(x, x)

    def evaluate(data: dict, x: jax.Array) -> dict[str, jax.Array]:
        inputs, best = data["inputs"][honest].reshape(-1, dim), data["minimiser"]
        labels = data["labels"][honest].reshape(-1)
        at = lambda x: loss(x, {"input": inputs, "label": labels})  # noqa: E731
        # f(x) − f(x*) as f's Bregman divergence from x*, term by term: the difference would be rounding.
        apart = x.astype(best.dtype) - best
        terms = _divergence(inputs @ apart, inputs @ best)
        return {
            "gradient_norm": global_norm(jax.grad(at)(x)),
            "objective": at(x),
            "suboptimality": terms.mean() + jnp.asarray(0.5 * l2, best.dtype) * jnp.vdot(apart, apart),
            "distance": global_norm(apart),
        }

    sums = {"examples": examples, "num_examples": (size,) * n}
    return Task(data, init, sample, loss, evaluate, n, check, byzantine=liars, num_classes=2, **sums)


def _divergence(turn: jax.Array, there: jax.Array) -> jax.Array:
    """``s(z + t) − s(z) − s'(z) t`` of ``s(z) = log(1 + eᶻ)``, without cancellation near t = 0 nor overflow afar."""
    rare = jax.nn.sigmoid(-jnp.abs(there))  # of the two labels' chances the smaller: s(z) = z + s(−z)
    turn = jnp.where(there < 0, turn, -turn)
    near = jnp.log1p(rare * jnp.expm1(jnp.minimum(turn, 1.0)))
    afar = jnp.logaddexp(-jax.nn.softplus(-jnp.abs(there)), turn - jax.nn.softplus(jnp.abs(there)))
    return jnp.where(turn < 1, near, afar) - rare * turn


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))


def _minimiser(inputs: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
    """By Newton's method in float64, with steps halved until the objective does not grow."""

    def objective(x: np.ndarray) -> float:
        z = inputs @ x
        return float((np.logaddexp(0, z) - labels * z).mean() + 0.5 * l2 * x @ x)

    x = np.zeros(inputs.shape[1])
    for _ in range(_STEPS):
        chance = _sigmoid(inputs @ x)
        gradient = inputs.T @ (chance - labels) / len(inputs) + l2 * x
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(inputs) + l2 * np.eye(len(x))
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while length > 1e-6 and objective(x - length * step) > objective(x) + 1e-15 * abs(objective(x)):
            length /= 2
        x = x - length * step
        if np.linalg.norm(step) <= 1e-15 * (1 + np.linalg.norm(x)):
            break
    return x
