"""References in float64."""

import math

import jax
import numpy as np


def numpy_gpt(params, tokens, num_heads):
    """The same function in float64, position by position."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, q):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * q["scale"] + q["bias"]

    def linear(x, q):
        return x @ q["kernel"] + q["bias"]

    def gelu(x):
        return x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)

    def attention(x, q):
        length, width = x.shape
        query, key, value = np.split(linear(x, q["project"]), 3, axis=-1)
        size, mixed = width // num_heads, np.zeros_like(x)
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            for t in range(length):
                scores = key[: t + 1, own] @ query[t, own] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                mixed[t, own] = weights / weights.sum() @ value[: t + 1, own]
        return linear(mixed, q["output"])

    def logits(ids):
        x = p["token"]["embedding"][ids] + p["position"]["embedding"][: len(ids)]
        for layer in range(sum(name.startswith("block") for name in p)):
            q = p[f"block{layer}"]
            x = x + attention(norm(x, q["norm1"]), q["attention"])
            x = x + linear(gelu(linear(norm(x, q["norm2"]), q["widen"])), q["narrow"])
        return norm(x, p["norm"]) @ p["token"]["embedding"].T

    return np.stack([logits(ids) for ids in tokens])
