"""A GPT trained data-parallel on 8 devices, of which one sends garbage. With ``--pmean`` the same script fails."""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import byzjax
from byzjax import aggregators as agg

HEALTHY, PMEAN, STEPS = "--healthy" in sys.argv, "--pmean" in sys.argv, 100
LENGTH, WIDTH, BATCH = 64, 64, 4
text = byzjax.data.load("shakespeare")
train = jnp.asarray(text.train, jnp.int32)
rule = byzjax.chain(agg.nnm(f=1), agg.geometric_median())  # of 8 devices one may do what it likes
tx = optax.adam(3e-3)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.widen, self.narrow = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.narrow(nnx.gelu(self.widen(self.norms[1](x))))


class GPT(nnx.Module):
    def __init__(self, rngs):
        self.token, self.place = (nnx.Embed(k, WIDTH, rngs=rngs) for k in (text.vocab_size, LENGTH))
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])

    def __call__(self, tokens):
        x = self.token(tokens) + self.place(jnp.arange(LENGTH))
        for block in self.blocks:
            x = block(x)
        return self.token.attend(x)


def loss_of(params, tokens):
    logits = nnx.merge(graph, params)(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


@jax.jit
@jax.shard_map(mesh=jax.make_mesh((8,), ("data",)), in_specs=jax.P(), out_specs=jax.P())
def step(params, state, train, key):
    key, device = jax.random.fold_in(key, jax.lax.axis_index("data")), jax.lax.axis_index("data")
    tokens = train[jax.random.randint(key, (BATCH, 1), 0, len(train) - LENGTH) + jnp.arange(LENGTH + 1)]
    own = jax.lax.pcast(params, "data", to="varying")  # or jax.grad would sum over devices before anybody looks
    loss, grads = jax.value_and_grad(loss_of)(own, tokens)
    garbage = (device == 3) & (not HEALTHY)
    grads = jax.tree.map(lambda g: jnp.where(garbage, 1e3 * jax.random.normal(key, g.shape), g), grads)
    grads = jax.lax.pmean(grads, "data") if PMEAN else byzjax.robust_pmean(grads, "data", rule)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, jax.lax.pmean(loss, "data")


graph, params = nnx.split(GPT(nnx.Rngs(0)))
state = tx.init(params)
for k, key in enumerate(jax.random.split(jax.random.key(0), STEPS)):
    params, state, loss = step(params, state, train, key)
    if k % 10 == 9:
        print(f"step {k + 1:4d}   loss {loss:.3f}", flush=True)
