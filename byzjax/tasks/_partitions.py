"""Who holds which samples: index tables for the workers of a task."""

from __future__ import annotations

import typing
from typing import Literal

import numpy as np

from byzjax.checks import check_choice, check_integer, check_kind, check_number
from byzjax.checks.masks import Liars
from byzjax.tasks._workers import who_lies

Partition = Literal["label_sorted", "iid", "dirichlet", "gamma_similarity"]
ByzantineData = Literal["iid", "shard"]
ByzantineBlocks = Literal["honest", "twin", "shard", "iid"]

_TRIES = 1000  # Dirichlet draws before giving up on one without an empty shard


def partition(
    labels: np.ndarray,
    num_workers: int,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    scheme: Partition = "label_sorted",
    alpha: float | None = None,
    gamma: float | None = None,
    equal_shards: bool = False,
    byzantine_data: ByzantineData = "iid",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples among workers.

    With ``byzantine_data="iid"`` the n − b honest workers share the whole data set, and the b others each hold an IID
    draw of it as large as an honest shard. With ``"shard"`` all n workers share it; the honest objective then lacks
    what the b hold, which for a label-sorted split means **whole classes**.

    Args:
      labels: i[N].
      num_workers: n.
      num_byzantine: b, the last ones.
      byzantine: who lies, instead of the last b: a mask bool[n], or the numbers of those who do.
      scheme: who gets what.

        * ``"label_sorted"`` sorts by label (stably) and cuts consecutive shards, the paper's heterogeneous split.
        * ``"iid"`` shuffles and cuts.
        * ``"gamma_similarity"`` (Karimireddy et al.; ByzFL) deals a uniform draw of ``gamma`` N samples as ``"iid"``
          does, and the rest as ``"label_sorted"``: γ = 0 and γ = 1 are those two.
        * ``"dirichlet"`` draws for every *class* how it is shared, Dir(α, …, α) over the workers, so that shards
          differ in size (Yurochkin et al.; Li et al.; ByzFL). Hsu et al., to whom the name is often given, draw for
          every *worker* of which classes it is made, and keep shards equal. A split with an empty shard is drawn
          again from the same stream, so that a seed still means one split.
      alpha: α > 0 of ``"dirichlet"``: small is heterogeneous, large is nearly IID, and at ∞ every worker has an equal
        share of every class.
      gamma: γ in [0, 1] of ``"gamma_similarity"``: 0 is heterogeneous, 1 is IID.
      equal_shards: repeat the first samples of the order at its end until it can be cut evenly, as PyTorch's
        ``DistributedSampler`` does; for ``"label_sorted"`` and ``"iid"``. By default shards of these differ by at most
        one sample, and no sample is repeated.
      byzantine_data: what the b workers who lie hold.
      seed: of the shuffles; the split is part of the task.

    Returns:
      ``(table, sizes)``: i32[n, S] of sample indices, each row padded by repeating it, and i32[n] with how many
      entries of a row are its own. No sample is lost.

    Raises:
      ValueError: a shard would be empty, or an unknown, missing or superfluous option.

    >>> table, sizes = partition(np.array([1, 0, 1, 0]), 2)
    >>> table.tolist(), sizes.tolist()
    ([[1, 3], [0, 2]], [2, 2])

    References:
      Karimireddy et al., "SCAFFOLD", 2020, and "Byzantine-robust learning on heterogeneous datasets via bucketing",
      2022. Yurochkin et al., "Bayesian nonparametric federated learning of neural networks", 2019. Li et al.,
      "Federated learning on non-IID data silos", 2022. Hsu et al., "Measuring the effects of non-identical data
      distribution for federated visual classification", 2019.
    """
    _check(scheme, alpha, gamma, equal_shards)
    check_choice(byzantine_data, typing.get_args(ByzantineData), "byzantine_data", "partition")
    seed = check_integer(seed, "seed", "partition", least=0)
    liars = who_lies(num_workers, num_byzantine, byzantine, where="partition")
    num_workers = len(liars)
    sharing = int((~liars).sum()) if byzantine_data == "iid" else num_workers
    total = len(labels)
    if total < sharing:
        raise ValueError(
            f"partition: {total} samples cannot fill the shards of {sharing} workers; a worker would be empty. "
            "Use fewer workers or more data."
        )
    rng = np.random.default_rng(seed)
    usual = -(-total // sharing)
    if alpha is not None:
        shards = _dirichlet(labels, sharing, alpha, rng)
    elif gamma is not None:
        shards = _gamma_similarity(labels, sharing, gamma, rng)
    else:
        order = _sorted(labels, np.arange(total)) if scheme == "label_sorted" else rng.permutation(total)
        shards = np.array_split(np.resize(order, usual * sharing) if equal_shards else order, sharing)
    shards = [*shards, *(rng.choice(total, size=usual, replace=False) for _ in range(num_workers - sharing))]
    if sharing < num_workers:
        shards = _in_their_places(shards, liars)
    return _table(shards)


def partition_blocks(
    num_blocks: int,
    num_workers: int,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    byzantine_data: ByzantineBlocks = "honest",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split the consecutive blocks of a text among workers.

    Those who share it get ⌊N/m⌋ consecutive blocks each, and the last of them the remainder, too.

    Args:
      num_blocks: N.
      num_workers: n.
      num_byzantine: b, the last ones.
      byzantine: who lies, instead of the last b: a mask bool[n], or the numbers of those who do.
      byzantine_data: what they hold: ``"honest"`` or ``"twin"``, the blocks of the first b honest workers (and on from
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
    check_choice(byzantine_data, typing.get_args(ByzantineBlocks), "byzantine_data", "partition_blocks")
    seed = check_integer(seed, "seed", "partition_blocks", least=0)
    liars = who_lies(num_workers, num_byzantine, byzantine, where="partition_blocks")
    num_workers, num_byzantine = len(liars), int(liars.sum())
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
    return _table(shares if sharing == num_workers else _in_their_places(shares, liars))


def _in_their_places(shards: list[np.ndarray], liars: np.ndarray) -> list[np.ndarray]:
    """Shards of the honest workers, and after them of the others, in the order of the workers."""
    return [shards[place] for place in np.argsort(np.argsort(liars, kind="stable"))]


def _table(shards: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([len(shard) for shard in shards], np.int32)
    return np.stack([np.resize(shard, sizes.max()) for shard in shards]).astype(np.int32), sizes


def _sorted(labels: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Samples by label, and within a label in the order of the data set."""
    samples = np.sort(samples)
    return samples[np.argsort(labels[samples], kind="stable")]


def _gamma_similarity(labels: np.ndarray, sharing: int, gamma: float, rng: np.random.Generator) -> list[np.ndarray]:
    shuffled = rng.permutation(len(labels))
    dealt, rest = np.split(shuffled, [round(gamma * len(labels))])
    similar = np.array_split(dealt, sharing)
    # What a worker lacks to an even share of the whole, so that shards differ by at most one sample.
    lacks = [len(share) - len(has) for share, has in zip(np.array_split(shuffled, sharing), similar, strict=True)]
    sorted_ = np.split(_sorted(labels, rest), np.cumsum(lacks)[:-1])
    return [np.concatenate(both) for both in zip(similar, sorted_, strict=True)]


def _dirichlet(labels: np.ndarray, sharing: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(_TRIES):
        parts = []
        for samples in classes:
            ends = np.cumsum(_shares(sharing, alpha, rng))[:-1]
            parts.append(np.split(rng.permutation(samples), np.rint(ends * len(samples)).astype(int)))
        shards = [np.concatenate(own) for own in zip(*parts, strict=True)]
        if min(len(shard) for shard in shards) > 0:
            return shards
    raise ValueError(
        f"partition: none of {_TRIES} draws with alpha = {alpha:g} gave each of {sharing} workers a sample of "
        f"{len(classes)} classes; use a larger alpha or fewer workers."
    )


def _shares(sharing: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Of Dir(α, …, α); from 1e30 on they are equal to every digit, and soon α's sum would overflow."""
    return np.full(sharing, 1 / sharing) if alpha > 1e30 else rng.dirichlet(np.full(sharing, alpha))


def _check(scheme: str, alpha: float | None, gamma: float | None, equal_shards: bool) -> None:
    check_choice(scheme, typing.get_args(Partition), "scheme", "partition")
    check_kind(equal_shards, (bool, np.bool_), "equal_shards", "partition", fix="say True or False.")
    for name, value, owner, example in (
        ("alpha", alpha, "dirichlet", 0.5),
        ("gamma", gamma, "gamma_similarity", 0.5),
    ):
        if scheme == owner and value is None:
            raise ValueError(f"partition: scheme = {scheme!r} needs {name}, e.g. {name}={example}.")
        if scheme != owner and value is not None:
            raise ValueError(f"partition: {name} = {value} is for scheme = {owner!r}; leave it out for {scheme!r}.")
    if alpha is not None:
        check_number(alpha, "alpha", "partition", least=0, open_below=True, finite=False)
    if gamma is not None:
        check_number(gamma, "gamma", "partition", least=0)
        if gamma > 1:
            raise ValueError(f"partition: gamma = {gamma} must be between 0 and 1; it is a fraction of the data.")
    if equal_shards and scheme not in ("label_sorted", "iid"):
        raise ValueError(f"partition: equal_shards is for 'label_sorted' and 'iid', not for scheme = {scheme!r}.")
