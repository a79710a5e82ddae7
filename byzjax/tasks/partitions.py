"""Who holds which samples: index tables for the workers of a task."""

from __future__ import annotations

from typing import Literal

import numpy as np

Partition = Literal["label_sorted", "iid"]
ByzantineData = Literal["iid", "shard"]
ByzantineBlocks = Literal["honest", "twin", "shard", "iid"]


def partition(
    labels: np.ndarray,
    num_workers: int,
    num_byzantine: int = 0,
    *,
    scheme: Partition = "label_sorted",
    byzantine_data: ByzantineData = "iid",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples among workers.

    The honest workers come first. With ``byzantine_data="iid"`` the first n − b workers share the whole data set, and
    the last b each hold an IID draw of it as large as an honest shard. With ``"shard"`` all n workers share it; the
    honest objective then lacks what the last b hold, which for a label-sorted split means **whole classes**.

    Args:
      labels: i[N].
      num_workers: n.
      num_byzantine: b.
      scheme: ``"label_sorted"`` sorts by label (stably) and cuts consecutive shards, the paper's heterogeneous split;
        ``"iid"`` shuffles first.
      byzantine_data: what the last b workers hold.
      seed: of the shuffles; the split is part of the task.

    Returns:
      ``(table, sizes)``: i32[n, S] of sample indices, each row padded by repeating it, and i32[n] with how many
      entries of a row are its own. Shards differ by at most one sample and lose none.

    Raises:
      ValueError: a shard would be empty, or an unknown option.

    >>> table, sizes = partition(np.array([1, 0, 1, 0]), 2)
    >>> table.tolist(), sizes.tolist()
    ([[1, 3], [0, 2]], [2, 2])
    """
    if scheme not in ("label_sorted", "iid"):
        raise ValueError(f"partition: scheme = {scheme!r} must be 'label_sorted' or 'iid'.")
    if byzantine_data not in ("iid", "shard"):
        raise ValueError(f"partition: byzantine_data = {byzantine_data!r} must be 'iid' or 'shard'.")
    sharing = num_workers - num_byzantine if byzantine_data == "iid" else num_workers
    total = len(labels)
    if total < sharing:
        raise ValueError(
            f"partition: {total} samples cannot fill the shards of {sharing} workers; a worker would be empty. "
            "Use fewer workers or more data."
        )
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable") if scheme == "label_sorted" else rng.permutation(total)
    shards = np.array_split(order, sharing)
    largest = max(len(shard) for shard in shards)
    shards += [rng.choice(total, size=largest, replace=False) for _ in range(num_workers - sharing)]
    table = np.stack([np.resize(shard, largest) for shard in shards])
    return table.astype(np.int32), np.array([len(shard) for shard in shards], np.int32)


def partition_blocks(
    num_blocks: int,
    num_workers: int,
    num_byzantine: int = 0,
    *,
    byzantine_data: ByzantineBlocks = "honest",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split the consecutive blocks of a text among workers.

    Those who share it get ⌊N/m⌋ consecutive blocks each, and the last of them the remainder, too.

    Args:
      num_blocks: N.
      num_workers: n.
      num_byzantine: b.
      byzantine_data: what the last b workers hold: ``"honest"`` or ``"twin"``, the blocks of the first b (and on from
        the first again, should b > n − b); ``"shard"``, their part of an n-way split; ``"iid"``, a random draw of
        all blocks, as many as the last honest worker has.
      seed: of the random draw.

    Returns:
      ``(table, sizes)`` as in `partition`.

    Raises:
      ValueError: a worker would have no block, or an unknown option.

    >>> table, sizes = partition_blocks(5, 3, 1)
    >>> table.tolist(), sizes.tolist()
    ([[0, 1, 0], [2, 3, 4], [0, 1, 0]], [2, 3, 2])
    """
    if byzantine_data not in ("honest", "twin", "shard", "iid"):
        raise ValueError(
            f"partition_blocks: byzantine_data = {byzantine_data!r} must be 'honest', 'twin', 'shard' or 'iid'."
        )
    sharing = num_workers if byzantine_data == "shard" else num_workers - num_byzantine
    if num_blocks < sharing:
        raise ValueError(
            f"partition_blocks: {num_blocks} blocks do not suffice for {sharing} workers; one would have none. "
            "Use fewer workers, shorter blocks or more text."
        )
    each = num_blocks // sharing
    shares = np.split(np.arange(num_blocks), each * np.arange(1, sharing))
    if byzantine_data == "iid":
        rng = np.random.default_rng(seed)
        shares += [rng.choice(num_blocks, len(shares[-1]), replace=False) for _ in range(num_byzantine)]
    shares += [shares[worker % sharing] for worker in range(len(shares), num_workers)]
    table = np.stack([np.resize(share, len(shares[sharing - 1])) for share in shares])
    return table.astype(np.int32), np.array([len(share) for share in shares], np.int32)
