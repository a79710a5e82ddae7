"""Make the data sets of a reproduction small enough to keep beside the code: fewer evaluations, single precision.

    python benchmarks/thin.py reproduction benchmarks/results/paper --every 3 --drop objective --drop distance
    byzjax report benchmarks/results/paper --out report

Every run stays, at every learning rate and seed, and so do its last evaluation and the one that chose its rate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import xarray

from byzjax import results


def thin(dataset: xarray.Dataset, every: int, drop: list[str]) -> xarray.Dataset:
    """Every so many evaluations, counted back from the last, and the one that tuning looks at."""
    rounds = np.asarray(dataset["eval"])
    kept = (np.arange(len(rounds))[::-1] % every) == 0
    after = results.config_of(dataset)["tuning"]["after"]
    if after is not None:
        kept[np.flatnonzero(rounds <= after)[-1]] = True
    dataset = dataset.drop_vars(drop, errors="ignore").isel(eval=np.flatnonzero(kept))
    for name, values in dataset.data_vars.items():
        if values.dtype == np.float64:
            dataset[name] = values.astype(np.float32)
        dataset[name].encoding = {"zlib": True, "complevel": 9, "shuffle": True}
    return dataset


def main() -> None:
    """All data sets of a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--drop", action="append", default=[], help="a variable (repeatable)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(args.store.glob("*-*.nc")):
        small = thin(results.load(path), args.every, args.drop)
        made = results.save(small, args.out / path.name)
        print(f"{made}: {path.stat().st_size / 1e6:.1f} MB -> {Path(made).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
