"""What the README and the design promise a newcomer works as written."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.configs import grid_config, grid_sweep
from tests.environment import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::byzjax.selection.EdgeWarning")  # after so few rounds
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it sweeps into a store
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    code = "\n".join(blocks)
    code, shortened = re.subn(r"num_rounds=1500,\s+eval_every=30", "num_rounds=4, eval_every=2, progress=False", code)
    assert shortened == 2
    code, shortened = re.subn(r"num_rounds=300,\s+eval_every=100", "num_rounds=6, eval_every=2", code)
    assert shortened == 1
    code = code.replace('config={"eval_every": 100}', 'config={"eval_every": 2}')  # or it is refused
    names = {}
    exec(code, names)
    assert len(names["mesh"].devices.ravel()) == len(jax.devices())
    np.testing.assert_allclose(names["spread"].history["loss"], names["result"].history["loss"], rtol=1e-4)
    assert names["result"].evals["test_accuracy"].shape == (2,)
    assert names["dataset"].objective.sizes == {"rule": 2, "seed": 5, "learning_rate": 5, "eval": 3}
    assert "learning_rate" not in names["best"].sizes
    params = {"w": jnp.ones((3, 2))}
    grads = {"w": jnp.ones((20, 3, 2))}
    updates, _ = names["tx"].update(grads, names["tx"].init(params), params)
    np.testing.assert_allclose(jnp.linalg.norm(updates["w"]), 0.1, rtol=1e-5)


def test_the_sweep_of_the_readme_can_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    (path, override), *others = re.findall(r"^byzjax sweep (\S+) --set (\S+)$", README, flags=re.MULTILINE)
    assert not others
    assert grid_sweep.check(grid_config.load(path, [override]), grid_sweep.Tasks()) == []


def test_the_first_line_that_everybody_types():
    result = byzjax.aggregate(byzjax.chain(agg.nnm(f=1), agg.median()), jnp.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(result, [4.5, 5.5, 6.5])


def test_a_list_of_vectors_is_not_taken_for_parameters():
    vectors = [jax.random.normal(key, (5,)) for key in jax.random.split(jax.random.key(0), 3)]
    with pytest.raises(ValueError, match=r"jnp\.stack"):
        byzjax.aggregate(agg.median(), vectors)
