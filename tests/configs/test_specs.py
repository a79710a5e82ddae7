"""Specifications: what parses, what is filled in, and what every kind of mistake says."""

import inspect
import re

import jax.numpy as jnp
import pytest

import byzjax
from byzjax import aggregators, attacks, methods, results, tasks
from byzjax.configs import specs
from byzjax.configs.run_config import RunConfig


@pytest.mark.parametrize(
    ("text", "name", "args", "kwargs"),
    [
        ("krum", "krum", (), {}),
        (" ipm( scale = 10.0 ) ", "ipm", (), {"scale": 10.0}),
        ("mimic(reverse)", "mimic", ("reverse",), {}),
        ("mimic(variant='copy', warmup=2)", "mimic", (), {"variant": "copy", "warmup": 2}),
        ("alie(z=-1.5, sign=-1)", "alie", (), {"z": -1.5, "sign": -1}),
        ("momentum_sgd(decay=True)", "momentum_sgd", (), {"decay": True}),
        ("multi_krum(2, m=None)", "multi_krum", (2,), {"m": None}),
    ],
)
def test_parse(text, name, args, kwargs):
    assert specs.parse(text) == specs.Spec(name, args, kwargs)
    assert specs.parse(str(specs.parse(text))) == specs.parse(text)


def test_commas_inside_parentheses_do_not_separate():
    chain = specs.parse_chain("bucketing(bucket_size=2),multi_krum(f=1, m=3)")
    assert [str(spec) for spec in chain] == ["bucketing(bucket_size=2)", "multi_krum(f=1, m=3)"]


@pytest.mark.parametrize(
    "text", ["", "nnm,,rfa", "krum(", "1", "a.b", "krum(**{'f': 1})", "f()()", "nnm rfa", "[krum]"]
)
def test_what_is_no_specification(text):
    with pytest.raises(ValueError, match="is not a specification"):
        specs.parse_chain(text)


def test_a_name_with_a_colon_wants_quotes():
    assert specs.parse("classification('tfds:emnist/letters')").args == ("tfds:emnist/letters",)
    with pytest.raises(ValueError, match=r"wants quotes, e.g. \"classification\('tfds:cifar10'\)\""):
        specs.parse("classification(tfds:cifar10)")


def test_nothing_is_evaluated(tmp_path):
    witness = tmp_path / "evaluated"
    with pytest.raises(ValueError, match="is not a literal"):
        specs.parse(f"ipm(scale=open({str(witness)!r}, 'w').close())")
    assert not witness.exists()


def test_one_where_one_is_wanted():
    with pytest.raises(ValueError, match="names 2 things"):
        specs.parse("ipm,alie")


def bound(text, registry=attacks.REGISTRY, **kwargs):
    return specs.bind(specs.parse(text), registry, "attack", **kwargs)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cifar10", r"\"classification\('tfds:cifar10'\)\""),
        ("emnist", r"\"classification\('tfds:emnist'\)\""),
        ("mnits", "mnist"),
        ("quartc", "quartic"),
    ],
)
def test_a_data_set_is_no_task_but_makes_one(name, near):
    with pytest.raises(ValueError, match=rf"unknown task '{name}'; nearest: {near}\. Known: "):
        specs.lookup(name, tasks.REGISTRY, "task")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("krumm", r"unknown attack 'krumm'.*Known: alie, bit_flip, ipm"),
        ("bitflip", r"nearest: bit_flip"),
        ("ipm(scal=1)", r"no argument 'scal'; nearest: scale"),
        ("none(scale=1)", r"no argument 'scale'; it takes no arguments"),
        ("mimic", r"variant is missing, one of 'reverse', 'copy', 'fixed'; write \"mimic\(variant='reverse'\)\""),
        ("mimic(revers)", r"variant = 'revers' must be one of 'reverse', 'copy', 'fixed'; nearest: reverse"),
        ("alie(z=big)", r"z = 'big' must be a number or 'auto'"),
        ("alie(z=(1, 2))", r"z = \(1, 2\) must be a number or 'auto'"),
        ("alie(sign=2)", r"sign = 2 must be one of 1, -1"),
        ("ipm(1, 2)", r"takes 1 unnamed arguments, not 2; it is ipm\(scale=0.5\)"),
        ("ipm(1, scale=2)", r"scale is given twice"),
        ("ipm(scale=1, scale=2)", r"scale is given twice|not a specification"),
    ],
)
def test_every_mistake_says_what_would_fit(text, message):
    with pytest.raises(ValueError, match=message):
        bound(text)


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("task", "mnist(batch_size='many')", "mnist: batch_size = 'many' must be an integer."),
        ("task", "mnist(batch_size=2.5)", "mnist: batch_size = 2.5 must be an integer."),
        ("task", "mnist(batch_size=True)", "mnist: batch_size = True must be an integer."),
        ("task", "mnist(batch_size=None)", "mnist: batch_size = None must be an integer."),
        ("task", "mnist(alpha='x')", "mnist: alpha = 'x' must be a number or None."),
        ("task", "mnist(equal_shards=1)", "mnist: equal_shards = 1 must be True or False."),
        ("task", "mnist(model=3)", "mnist: model = 3 must be a text."),
        ("task", "mnist(model=cnn(1))", "'mnist(model=cnn(1))': 'cnn(1)' is not a literal; "),
        ("task", "quartic(dim=2.5)", "quartic: dim = 2.5 must be an integer."),
        ("task", "quartic(shift_key=3)", "quartic: shift_key = 3: what it takes cannot be said in a specification"),
        ("task", "shakespeare(compute_dtype=3)", "compute_dtype = 3 must be a text or None."),
        ("method", "byz_nsgdm(decay=maybe)", "byz_nsgdm: decay = 'maybe' must be True or False."),
        ("method", "byz_nsgdm(momentum=em)", "momentum = 'em' must be one of 'ema', 'heavy_ball'; nearest: ema."),
        ("aggregator", "krum(f=None)", "krum: f = None must be a number."),
        ("aggregator", "krum(f=[1])", r"krum: f = [1] must be a number."),
        ("aggregator", "safeguard(windows=3)", "safeguard: windows = 3 must be a list like (1, 2)."),
        ("aggregator", "safeguard(windows=(1, 2, 3))", "windows = (1, 2, 3) must be a list like (1, 2)."),
        ("aggregator", "safeguard(windows=(1, 'b'))", "windows = (1, 'b') must be a list like (1, 2)."),
        ("aggregator", "rfa(tolerance=1j)", "rfa: tolerance = 1j must be a number or None."),
        ("attack", "ipm(scale=1if 2else 3)", "is not a literal"),
        ("attack", "ipm('\\d')", "must be a number"),
        ("attack", f"ipm({'x' * 500})", "…"),
    ],
)
def test_literals_of_the_wrong_sort(part, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        RunConfig(**{part: text}).calls()
    assert len(str(caught.value)) < 400


def test_literals_of_the_right_sort():
    for part, text in {
        "task": "mnist(alpha=1, scheme=dirichlet, test_size=None, equal_shards=False)",
        "aggregator": "safeguard(windows=[3, 9], thresholds=(1.0, 2))",
        "attack": "alie(z=auto)",
        "method": "byz_nsgdm(decay=False, initial_momentum=0.0)",
    }.items():
        RunConfig(**{part: text}).calls()


@pytest.mark.parametrize("name", ["cifar10", "CIFAR-10", "cifar"])
def test_a_task_that_is_a_data_set(name):
    with pytest.raises(ValueError, match=r"nearest: \"classification\('tfds:cifar10'\)\". Known: classification"):
        specs.lookup(name, tasks.REGISTRY, "task")
    with pytest.raises(ValueError, match="is not a data set; nearest: 'tfds:cifar10'"):
        byzjax.data.load(name)
    with pytest.raises(ValueError, match=r"nearest: mnist\. Known"):
        specs.lookup("mnits", tasks.REGISTRY, "task")


def test_options_are_neither_repeated_nor_dropped():
    def method(learning_rate, *, aggregator):
        return learning_rate, aggregator

    registry = {"sgd": method}
    call = bound("sgd", registry, options={"learning_rate": 0.1, "aggregator": None})
    assert call.arguments == {"learning_rate": 0.1, "aggregator": None}
    with pytest.raises(ValueError, match=r"learning_rate is already set to 0\.1"):
        bound("sgd(learning_rate=1.0)", registry, options={"learning_rate": 0.1, "aggregator": None})
    with pytest.raises(ValueError, match="no argument 'beta'"):
        bound("sgd", registry, options={"learning_rate": 0.1, "aggregator": None, "beta": 0.5})


def test_f_is_filled_in_where_nothing_was_said():
    links = specs.bind_rule("nnm,multi_krum(f=1)", f=3)
    assert [link.arguments["f"] for link in links] == [3, 1]
    assert specs.bind_rule("rfa", f=3)[0].arguments == {
        "num_iters": 8,
        "smoothing": 0.1,
        "init": "zero",
        "tolerance": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nnm", "nnm is a pre-aggregation; add a rule"),
        ("krum,nnm,rfa", "krum is a rule and must come last"),
        ("bucketing,krum", r"bucket_size is missing; write 'bucketing\(bucket_size=…\)'"),
        ("krum(f=-1)", "f = -1"),
        ("krum(f=None)", "krum: "),
    ],
)
def test_what_is_no_rule(text, message):
    with pytest.raises(ValueError, match=message):
        specs.build_rule(specs.bind_rule(text, f=1))


def test_a_chain_in_text_is_the_chain_in_python():
    updates = jnp.array([[1.0, 0.0], [2.0, 1.0], [3.0, 0.5], [2.5, 0.2], [1e9, -1e9]])
    text = specs.build_rule(specs.bind_rule("nnm,rfa(num_iters=3)", f=1))
    python = byzjax.chain(aggregators.nnm(f=1), aggregators.geometric_median(num_iters=3))
    assert (byzjax.aggregate(text, updates) == byzjax.aggregate(python, updates)).all()


REQUIRED = {
    "bucketing": "(bucket_size=2)",
    "mimic": "(reverse)",
    "nnm": ",rfa",
    "byzantine_sgd": "(deviation=1, diameter=9, num_rounds=9)",
    "simple_clustering": "(eps=0.05)",
    "classification": "(mnist)",
}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (part, name)
        for part, registry in [
            ("task", tasks.REGISTRY),
            ("method", methods.REGISTRY),
            ("aggregator", aggregators.REGISTRY),
            ("attack", attacks.REGISTRY),
        ]
        for name in registry
    ],
)
def test_every_registry_entry_can_be_said(part, name):
    text = name + REQUIRED.get(name, "") + (",rfa" if name == "bucketing" else "")
    call = RunConfig(**{part: text}).calls()[part][0]
    assert call.name == name
    assert list(call.arguments) == list(inspect.signature(call.factory).parameters)


@pytest.mark.parametrize(
    ("method", "made"),
    [
        ("byz_lmo(norm=spectral, vectors=l2, radius=2.0)", {"norm": "spectral", "vectors": "l2", "radius": 2.0}),
        ("byz_muon(method=newton_schulz, coefficients=dion)", {"method": "newton_schulz", "coefficients": "dion"}),
        (
            "byz_muon(method=newton_schulz, coefficients=[[1.5, -0.5, 0.0]])",
            {"method": "newton_schulz", "coefficients": [[1.5, -0.5, 0.0]]},
        ),
        ("byz_muon(coefficients=dion)", "coefficients = 'dion' is for method='newton_schulz'"),
        ("byz_scion(radii={'last': 2.0, 'others': 1.0})", {"radii": {"last": 2.0, "others": 1.0}}),
        ("byz_lmo(norm=2)", "byz_lmo: norm = 2 must be a text"),
        ("byz_lmo(norm=spectrl)", "norm = 'spectrl' is unknown; nearest: spectral"),
        ("byz_muon(method=qr)", "must be one of 'svd', 'polar', 'newton_schulz'"),
    ],
)
def test_norms_can_be_said(method, made):
    config = RunConfig(method=method)
    if isinstance(made, dict):
        rule = byzjax.chain(aggregators.nnm(3), aggregators.geometric_median())
        name = method.partition("(")[0]
        assert config.build().method == methods.REGISTRY[name](0.1, aggregator=rule, **made)
        assert results.encode(config.as_dict())
    else:
        with pytest.raises(ValueError, match=made):
            config.build()


def test_the_configuration_says_everything_and_ignores_blanks():
    config = RunConfig(aggregator="nnm, rfa", attack="ipm( 10.0 )", f=2, learning_rate=0.3).as_dict()
    assert (config["aggregator"], config["attack"], config["f"], config["beta"]) == ("nnm,rfa", "ipm(10.0)", 2, 0.9)
    assert config["arguments"]["attack"] == [{"name": "ipm", "scale": 10.0}]
    assert config["arguments"]["aggregator"][0] == {"name": "nnm", "f": 2}
    assert config["arguments"]["method"][0]["learning_rate"] == 0.3
    assert config == RunConfig(aggregator="nnm,rfa", attack="ipm(10.0)", f=2, learning_rate=0.3).as_dict()


@pytest.mark.parametrize("liars", ["[0, 1]", "[True, True, False, False, False]"])
def test_a_task_that_says_who_lies_says_how_many(liars):
    config = RunConfig(task=f"quartic(byzantine={liars})", num_workers=5, attack="ipm")
    assert config.num_byzantine == config.as_dict()["f"] == 2
    assert config.build().byzantine.tolist() == [True, True, False, False, False]
    with pytest.raises(ValueError, match="num_byzantine = 1, but byzantine marks 2 workers"):
        RunConfig(task=f"quartic(byzantine={liars})", num_workers=5, num_byzantine=1).build()


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (RunConfig(f=2), "nnm tolerates f = 2, but 3 of 20 workers are Byzantine"),
        (RunConfig(aggregator="nnm(f=1),rfa"), "nnm tolerates f = 1"),
        (RunConfig(aggregator="rfa", f=2), "f = 2 has no effect"),
        (RunConfig(attack="alie", num_byzantine=0), "alie does nothing"),
        (RunConfig(num_rounds=10), "never evaluated"),
    ],
)
def test_warnings(config, line):
    assert [warning for warning in config.warnings() if line in warning]


def test_no_warning_where_all_is_well():
    assert RunConfig(attack="alie", f=3).warnings() == []
    assert RunConfig(attack="alie", f=4).warnings() == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(learning_rate=float("nan")), "learning_rate = nan"),
        (RunConfig(num_byzantine=20), "num_byzantine = 20"),
        (RunConfig(task="quartic(num_workers=3)"), "num_workers is already set to 20"),
        (RunConfig(seed=-1), "seed = -1"),
        (RunConfig(beta=1.0), "beta = 1.0"),
    ],
)
def test_what_cannot_be_built(config, message):
    with pytest.raises(ValueError, match=message):
        config.build()
