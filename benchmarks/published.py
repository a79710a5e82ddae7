"""Make the small tables in ``byzjax/experiments/files`` of what the paper's authors published.

    python benchmarks/published.py REFERENCE [--out byzjax/experiments/files]

REFERENCE is a folder with what was read from the authors' logs, and from runs of their quartic code:
``table1_recomputed.csv``, ``quartic_curves.csv``, ``quartic_reference.csv`` and ``mnist_runs.csv``. Only facts are
copied: numbers, and why a printed number is not what a log gives. The README there says what the columns are.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

OUT = Path(__file__).parents[1] / "byzjax" / "experiments" / "files"
TASKS = {"MNIST": "mnist", "LM": "shakespeare", "Synthetic": "quartic"}
ATTACKS = {"bf": "BF", "lf": "LF", "mimic": "Mimic", "alie": "ALIE"}
RULES = {"rfa": "RFA", "krum": "Krum", "cm": "CM"}
METHODS = {"baseline": "Base", "lr_decay": "Decay", "nsgdm": "Byz-NSGDM"}
ROUNDS = {"mnist": 1500, "shakespeare": 700, "quartic": 3000}
EVERY = 60  # rounds between the points of the quartic's curves

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    table = list(read(given.reference / "table1_recomputed.csv"))
    runs = selected(table, read(given.reference / "mnist_runs.csv"))
    quartic = list(read(given.reference / "quartic_reference.csv"))
    made = {
        "table1": [cell(row) for row in table],
        "quartic_curves": quartic_curves(read(given.reference / "quartic_curves.csv")),
        "mnist_curves": mnist_curves(runs),
        "seeds": [*quartic_seeds(quartic), *mnist_seeds(runs)],
    }
    for name, rows in made.items():
        print(f"{write(given.out / f'{name}.csv', rows)}: {len(rows)} rows")


def read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def place(row: dict[str, str]) -> Row:
    """Which cell of the table a row belongs to, in this package's words."""
    return {
        "attack": ATTACKS[row["attack"].lower()],
        "aggregator": RULES[row["agg"]],
        "method": METHODS[row["optimizer"]],
    }


def digits(value: float | str) -> str:
    return f"{float(value):.6g}"


def cell(row: dict[str, str]) -> Row:
    return {
        "task": TASKS[row["task"]],
        **place(row),
        "printed_mean": row["paper_mean"],
        "printed_std": row["paper_std"],
        "mean": digits(row["mean"]),
        "std": digits(row["std"]),
        "std_ddof1": digits(row["std_ddof1"]),
        "learning_rate": digits(row["selected_lr"]),
        "figure_learning_rate": row["authors_figure_lr"],
        "num_rounds": ROUNDS[TASKS[row["task"]]],
        "source": "rerun" if row["task"] == "Synthetic" else "logs",
        "note": remark(row["note"]),
    }


def remark(note: str) -> str:
    if "swapped" in note:
        return "Base and Byz-NSGDM are swapped in print"
    if "lr=0.1 runs" in note:
        return "printed are the runs at 0.1, which the selection rule of all other cells does not choose"
    if "chaotic" in note:
        return "the released code does not give the printed value, at this rate or at that of the figure"
    if note:
        raise SystemExit(f"a note that is not known: {note}")
    return ""


def quartic_curves(rows: Iterable[dict[str, str]]) -> list[Row]:
    return [
        {
            **place(row),
            "learning_rate": row["lr"],
            "round": int(row["iteration"]) + 1,
            "aggregate_norm": digits(row["mean_agg_grad_norm"]),
            "gradient_norm": digits(row["mean_true_grad_norm"]),
        }
        for row in rows
        if int(row["iteration"]) % EVERY == 0
    ]


def quartic_seeds(rows: list[dict[str, str]]) -> Iterator[Row]:
    variables = {"aggregate_norm": "final_agg_grad_norm", "gradient_norm": "true_grad_norm_final"}
    for name, column in variables.items():
        for row in rows:
            yield seed("quartic", row, row["best_lr"], name, row[column])


def selected(table: list[dict[str, str]], runs: Iterable[dict[str, str]]) -> dict[tuple, list[dict[str, str]]]:
    """The rows of every cell of MNIST, at the rate that the table's rule chooses."""
    rates = {tuple(place(row).values()): float(row["selected_lr"]) for row in table if row["task"] == "MNIST"}
    kept = defaultdict(list)
    for row in runs:
        key = tuple(place(row).values())
        if float(row["lr"]) == rates[key]:
            kept[key].append(row)
    return dict(kept)


def mnist_curves(cells: dict[tuple, list[dict[str, str]]]) -> list[Row]:
    made: list[Row] = []
    for rows in cells.values():
        rounds = defaultdict(list)
        for row in rows:
            rounds[int(row["iteration"])].append(row)
        for number in sorted(rounds):
            accuracy = [float(row["top1"]) / 100 for row in rounds[number]]
            made.append(
                {
                    **place(rows[0]),
                    "learning_rate": rows[0]["lr"],
                    "round": number,
                    "test_accuracy": digits(statistics.fmean(accuracy)),
                    "test_accuracy_std": digits(statistics.pstdev(accuracy)),
                    "test_loss": digits(statistics.fmean(float(row["val_loss"]) for row in rounds[number])),
                    "num_seeds": len(accuracy),
                }
            )
    return made


def mnist_seeds(cells: dict[tuple, list[dict[str, str]]]) -> Iterator[Row]:
    for rows in cells.values():
        last = max(int(row["epoch"]) for row in rows)
        for row in rows:
            if int(row["epoch"]) == last:
                yield seed("mnist", row, row["lr"], "test_accuracy", float(row["top1"]) / 100)


def seed(task: str, row: dict[str, str], rate: str, variable: str, value: float | str) -> Row:
    return {
        "task": task,
        **place(row),
        "learning_rate": rate,
        "seed": row["seed"],
        "variable": variable,
        "value": f"{float(value):.9g}",  # exact: accuracies are counts of 9 984 images
    }


if __name__ == "__main__":
    main()
