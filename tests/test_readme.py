"""What the README and the pages of docs/ promise a newcomer works as written."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import methods
from byzjax.configs import grid_config, grid_sweep
from byzjax.transforms._lmo import NORMS
from tests.environment import ROOT

RUN_HERE = {
    "README.md",
    "docs/data.md",
    "docs/devices.md",
    "docs/methods.md",
    "docs/own-loop.md",
    "docs/robust-all-reduce.md",
    "docs/sweeps.md",
    "docs/variance-reduction.md",
}
ELSEWHERE = {"CONTRIBUTING.md"}  # test_docs.py


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def ran(page, *shorter):
    """The names that the Python of a page leaves, after replacements that have to be found once each."""
    code = "\n".join(blocks(page))
    for pattern, replacement in shorter:
        code, times = re.subn(pattern, replacement, code)
        assert times == 1, f"{page}: {pattern!r} is there {times} times"
    names = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_no_page_with_python_is_forgotten():
    pages = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    assert {page for page in pages if blocks(page)} == RUN_HERE | ELSEWHERE


def test_the_readme_prints_what_it_says(capsys):
    (said,) = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names = ran("README.md")
    assert len(names["byzantine"]) == names["task"].num_workers
    printed = capsys.readouterr().out
    numbers = [np.array(re.findall(r"[\d.]+(?:e[+-]\d+)?", text), float) for text in (printed, said)]
    np.testing.assert_allclose(*numbers, rtol=1e-2)


SHORT_MNIST = (r"num_rounds=1500,\s+eval_every=30", "num_rounds=4, eval_every=2, progress=False")


def test_a_run_and_the_same_over_devices():
    result = ran("docs/data.md", SHORT_MNIST)["result"]
    assert result.evals["test_accuracy"].shape == (2,)
    names = ran("docs/devices.md", SHORT_MNIST)
    assert len(names["mesh"].devices.ravel()) == len(jax.devices())
    np.testing.assert_allclose(names["spread"].history["loss"], result.history["loss"], rtol=1e-4)


def test_variance_reduction_and_an_estimator_of_ones_own():
    shorter = (r"num_rounds=600,\s+eval_every=200", "num_rounds=400, eval_every=400, progress=False")
    names = ran("docs/variance-reduction.md", shorter)
    assert names["result"].evals["gradient_norm"] < 1e-4
    options = {"byzantine": jnp.arange(20) >= 17, "key": jax.random.key(0), "num_rounds": 11}
    lazy = byzjax.simulate(names["task"], names["lazy"], names["attacks"].none(), **options)
    np.testing.assert_array_equal(lazy.history["loss"][1:10], lazy.history["loss"][0])
    assert lazy.history["loss"][10] < lazy.history["loss"][0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::byzjax.selection.EdgeWarning")  # after so few rounds
def test_the_sweep_over_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ran(
        "docs/sweeps.md",
        (r"num_rounds=300,\s+eval_every=100", "num_rounds=6, eval_every=2"),
        (r'config=\{"eval_every": 100\}', 'config={"eval_every": 2}'),  # or it is refused
    )
    assert names["dataset"].objective.sizes == {"rule": 2, "seed": 5, "learning_rate": 5, "eval": 3}
    assert "learning_rate" not in names["best"].sizes
    assert list((tmp_path / "sweeps").iterdir())


def test_a_loop_of_ones_own():
    names = ran("docs/own-loop.md")
    params = {"w": jnp.ones((3, 2))}
    grads = {"w": jnp.ones((20, 3, 2))}
    updates, _ = names["tx"].update(grads, names["tx"].init(params), params)
    np.testing.assert_allclose(jnp.linalg.norm(updates["w"]), 0.1, rtol=1e-5)
    np.testing.assert_allclose(names["weights"].sum(), 1.0, rtol=1e-5)


def test_methods_and_schedules():
    names = ran("docs/methods.md", (r"num_rounds=300,\s+eval_every=100", "num_rounds=2, eval_every=2, progress=False"))
    assert names["result"].history["finite"].all()
    assert names["theorem_1"] != names["anytime"]


def test_every_method_and_norm_is_on_its_page():
    page = (ROOT / "docs" / "methods.md").read_text()
    for name in (*methods.REGISTRY, *NORMS):
        assert f"`{name}`" in page, f"docs/methods.md lacks {name}; add it."


def test_a_robust_mean_over_devices():
    names = ran("docs/robust-all-reduce.md")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)
    w = names["step"](jnp.zeros((5,)), x, x.sum(1).at[3].set(1e30))
    assert 0 < jnp.linalg.norm(w) < 1
    assert jax.tree.leaves(names["state"].rule)[0].shape == (64, 2)


def test_the_sweep_of_the_command_line_can_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "command-line.md").read_text()
    (path, override), *others = re.findall(r"^byzjax sweep (\S+) --set (\S+)$", page, flags=re.MULTILINE)
    assert not others
    assert grid_sweep.check(grid_config.load(path, [override]), grid_sweep.Tasks()) == []


def test_the_first_line_that_everybody_types():
    result = byzjax.aggregate(byzjax.chain(agg.nnm(f=1), agg.median()), jnp.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(result, [4.5, 5.5, 6.5])


def test_a_list_of_vectors_is_not_taken_for_parameters():
    vectors = [jax.random.normal(key, (5,)) for key in jax.random.split(jax.random.key(0), 3)]
    with pytest.raises(ValueError, match=r"jnp\.stack"):
        byzjax.aggregate(agg.median(), vectors)
