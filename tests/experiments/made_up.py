"""Made-up data sets whose right answers are known."""

import numpy as np
import xarray

from byzjax import results

METHODS = ("Base", "Decay", "Byz-NSGDM")
RULES = ("RFA", "Krum", "CM")
ATTACKS = {
    "quartic": ("BF", "Mimic", "ALIE"),
    "mnist": ("BF", "LF", "Mimic"),
    "shakespeare": ("BF", "Mimic", "ALIE"),
    "ablation": ("BF",),
}
METRICS = {
    "quartic": ("aggregate_norm", "norm of the aggregate ×10⁻⁶", "min", 1e6, 1),
    "mnist": ("test_accuracy", "test accuracy, %", "max", 100.0, 1),
    "shakespeare": ("val_perplexity", "validation perplexity", "min", 1.0, 2),
    "ablation": ("test_accuracy", "test accuracy, %", "max", 100.0, 1),
}
ROUNDS = {"quartic": 3000, "mnist": 1500, "shakespeare": 700, "ablation": 600}


def made_up(
    name,
    variant="released",
    *,
    methods=METHODS,
    attacks=None,
    rules=RULES,
    references=True,
    rates=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    num_evals=10,
    num_rounds=None,
    betas=(),
    tuning=None,
):
    """A data set as `reproduce` makes it: the middle rate is the best, methods improve from the first to the last."""
    metric = dict(zip(("name", "title", "best", "factor", "digits"), METRICS[name], strict=True))
    attacks = ATTACKS[name] if attacks is None else attacks
    cases = [(attack, rule) for attack in attacks for rule in rules]
    cases += [(attack, "mean") for attack in ("none", *attacks)] if references else []
    num_rounds = num_rounds or ROUNDS[name]
    sizes = {"optimizer": len(methods), "case": len(cases), "learning_rate": len(rates)}
    sizes |= {"beta": len(betas)} if betas else {}
    sizes |= {"seed": len(seeds), "eval": num_evals}
    coords = {
        "optimizer": list(methods),
        "case": [f"{attack} / {rule}" for attack, rule in cases],
        "attack": ("case", [attack for attack, _ in cases]),
        "aggregator": ("case", [rule for _, rule in cases]),
        "learning_rate": list(rates),
        "seed": list(seeds),
        "eval": (1 + np.arange(num_evals)) * (num_rounds // num_evals),
    }
    coords |= {"beta": list(betas)} if betas else {}
    axes = np.meshgrid(*(np.arange(size) for size in sizes.values()), indexing="ij")
    place = dict(zip(sizes, axes, strict=True))
    off = np.abs(place["learning_rate"] - len(rates) // 2) + (np.abs(place["beta"] - 1) if betas else 0)
    error = 0.3 - 0.05 * place["optimizer"] + 0.1 * off + 0.4 / (1 + place["eval"]) + 0.004 * place["seed"]
    error = error - 0.02 * (place["case"] % 3)

    def variable(values):
        return tuple(sizes), values

    values = {}
    if metric["best"] == "max":
        values |= {f"{part}_accuracy": variable(1 - np.clip(error, 0, 1)) for part in ("test", "val")}
        values |= {f"{part}_loss": variable(4 * error) for part in ("test", "val")}
        per_class = np.repeat(values["test_accuracy"][1][..., None], 10, -1)
        per_class[..., 8] = 0.1
        values["test_accuracy_per_class"] = ((*sizes, "class"), per_class)
        values |= {"honest_norm": variable(error), "aggregate_norm": variable(2 * error)}
        coords["class"] = np.arange(10)
    elif name == "quartic":
        values |= {"aggregate_norm": variable(1e-4 * error), "gradient_norm": variable(5e-5 * error)}
    else:
        values |= {"val_perplexity": variable(10 * np.exp(error)), "test_perplexity": variable(11 * np.exp(error))}
    kept = np.where(np.isin(place["case"], np.arange(len(attacks) * len(rules))), 1.5, np.nan)
    lanes = tuple(axis for axis in sizes if axis != "eval")
    shape = tuple(sizes[axis] for axis in lanes)
    values |= {
        "attackers_kept": variable(kept),
        "diverged": (lanes, np.zeros(shape, bool)),
        "tried": (lanes, np.ones(shape, bool)),
    }
    config = {
        "experiment": name,
        "variant": variant,
        "num_rounds": num_rounds,
        "eval_every": num_rounds // num_evals,
        "metric": metric,
        "tuning": {"by": metric["name"], "best": metric["best"], "seeds": None, "after": None, **(tuning or {})},
        "precision": "float32",
        "notes": ["Made up."],
    }
    attributes = {
        **results.provenance(config),
        "lanes": int(np.prod(shape)),
        "diverged": 0,
        "compile_seconds": 60.0,
        "run_seconds": 120.0,
    }
    dataset = xarray.Dataset(values, coords, attributes)
    for variable_name in dataset.data_vars:
        dataset[variable_name].attrs = results.described(str(variable_name))
    return dataset


def put(folder, *datasets):
    for dataset in datasets:
        config = results.config_of(dataset)
        results.save(dataset, folder / f"{config['experiment']}-{config['variant']}.nc")
    return folder


def tiny(scores, **changes):
    """One method, one case; ``scores[rate, seed]`` after the last round."""
    scores = np.asarray(scores, float)
    dataset = made_up(
        "quartic",
        methods=("Base",),
        attacks=("BF",),
        rules=("RFA",),
        references=False,
        rates=tuple(10.0 ** np.arange(len(scores))),
        seeds=tuple(range(scores.shape[1])),
        **changes,
    )
    dataset["aggregate_norm"][0, 0, :, :, -1] = scores
    return dataset
