"""The gateway to tensorflow-datasets, on data sets that the tests prepare themselves; TensorFlow is not needed."""

import importlib.util
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from byzjax import data, results, tasks
from byzjax.cli.app import app
from byzjax.data import cache, gateway
from byzjax.plotting.summaries import axis_labels

# tensorflow-datasets prepares data without TensorFlow where images come encoded.
BUILDERS = """
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


def builder(name, features, splits):
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    body = {
        "VERSION": tfds.core.Version("1.2.0"),
        "_info": _info,
        "_split_generators": lambda self, manager: {split: enumerate(rows) for split, rows in splits.items()},
        "_generate_examples": lambda self: (),
    }
    with tfds.core.registered.skip_registration():
        return type(name, (tfds.core.GeneratorBasedBuilder,), body)


def images(shape, sizes, **extra):
    rng = np.random.default_rng(0)
    return {
        split: [{"image": png(rng.integers(0, 256, shape, np.uint8)), "label": i % 3, **extra} for i in range(size)]
        for split, size in sizes.items()
    }


def prepare(folder):
    F = tfds.features
    grey = {"image": F.Image(shape=(8, 6, 1)), "label": F.ClassLabel(num_classes=300)}
    colour = {"image": F.Image(shape=(8, 6, 3)), "label": F.ClassLabel(num_classes=3), "id": F.Text()}
    varying = {"image": F.Image(shape=(None, None, 1)), "label": F.ClassLabel(num_classes=3)}
    text = {"text": F.Text()}
    for made in (
        builder("TinyGrey", grey, images((8, 6), {"train": 30, "test": 9})),
        builder("TinyColour", colour, images((8, 6, 3), {"train": 12, "validation": 6}, id="x")),
        builder("TinyVarying", varying, images((5, 6), {"train": 3, "test": 3})),
        builder("TinyTrain", grey, images((8, 6), {"train": 3})),
        builder("TinyUnlabelled", grey, {**images((8, 6), {"train": 3}),
                                         "test": [{**row, "label": -1} for row in images((8, 6), {"t": 2})["t"]]}),
        builder("TinyText", text, {"test": [{"text": "that is"}], "train": [{"text": "to be, – or\\n"}],
                                   "validation": [{"text": "not to be\\n\\n"}]}),
    ):
        made(data_dir=folder, file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder as tensorflow-datasets leaves it, from a process of its own."""
    folder = tmp_path_factory.mktemp("tfds")
    code = f"{BUILDERS}\nimport sys\nprepare(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


def expected(shape, sizes):
    rng = np.random.default_rng(0)
    return {split: [rng.integers(0, 256, shape, np.uint8) for _ in range(size)] for split, size in sizes.items()}


def same_images(ours, theirs, labels):
    """Equal but for the order, which tensorflow-datasets shuffles."""
    assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)
    label_of = {image.tobytes(): place % 3 for place, image in enumerate(theirs)}
    assert [label_of[image.tobytes()] for image in ours] == labels.tolist()


def test_grey_images(folder):
    ds = data.load("tfds:tiny_grey", folder)
    pixels = expected((8, 6), {"train": 30, "test": 9})
    assert ds.train_images.shape == (30, 8, 6)
    assert ds.num_classes == 300
    assert (ds.train_images.dtype, ds.train_labels.dtype) == (np.uint8, np.int32)
    same_images(ds.train_images, pixels["train"], ds.train_labels)
    same_images(ds.test_images, pixels["test"], ds.test_labels)
    with pytest.raises(ValueError, match="read-only"):
        ds.train_images[0] = 1


def test_colour_images_and_validation_in_place_of_test(folder):
    ds = data.load("tfds:tiny_colour:1.2.0", folder)
    pixels = expected((8, 6, 3), {"train": 12, "validation": 6})
    assert ds.test_images.shape == (6, 8, 6, 3)
    same_images(ds.train_images, pixels["train"], ds.train_labels)
    same_images(ds.test_images, pixels["validation"], ds.test_labels)


def test_text_is_joined_in_the_order_of_its_splits(folder):
    text = "to be, – or\nnot to be\n\nthat is"
    assert gateway.load_text("tiny_text", data_dir=folder) == text
    shutil.rmtree(folder / "tiny_text")
    assert gateway.load_text("tfds:tiny_text", data_dir=folder) == text


def test_the_second_time_needs_nothing_but_the_cache(folder):
    first = data.load("tfds:tiny_grey", folder)
    shutil.rmtree(folder / "tiny_grey")
    code = """
import sys
import byzjax
ds = byzjax.data.load("tfds:tiny_grey", sys.argv[1])
print(int(ds.train_images.astype(int).sum()), "tensorflow_datasets" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(first.train_images.astype(int).sum())), "False"]


def test_the_folder_is_an_argument_or_a_variable_or_the_user_s(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    assert cache.folder() == tmp_path / "byzjax"
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    assert cache.folder() == folder
    assert data.load("tfds:tiny_grey").num_classes == 300
    assert cache.folder(tmp_path) == tmp_path


def test_data_of_tensorflow_datasets_own_folder_are_found_and_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "ours"))
    assert len(data.load("tfds:tiny_grey").test_labels) == 9
    assert not (folder / "byzjax-arrays").exists()
    assert [path.name.split(".images.")[0] for path in (tmp_path / "ours/byzjax-arrays").iterdir()] == [
        "tiny_grey@1.2.0"
    ]


@pytest.mark.parametrize("version", ["", ":1.2.0"])
def test_what_an_interrupted_preparation_left_is_passed_over(folder, version):
    """tensorflow-datasets prepares in ``incomplete.XYZ_1.2.0``, beside the version, whose number may be any digits."""
    whole = folder / "tiny_colour"
    shutil.copytree(whole / "1.2.0", whole / "incomplete.99ABC_1.2.0")
    for path in (whole / "incomplete.99ABC_1.2.0").glob("*array_record*"):
        path.write_bytes(b"")
    assert len(data.load(f"tfds:tiny_colour{version}", folder).train_labels) == 12


def test_a_corrupt_cache_is_noticed(folder):
    gateway._load.__wrapped__(gateway._parse("tiny_grey"), folder, False)
    (path,) = (folder / "byzjax-arrays").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    gateway._load.cache_clear()
    with pytest.raises(ValueError, match=rf"{path.name} is corrupt: .*Delete the file") as error:
        data.load("tfds:tiny_grey", folder)
    assert "\n" not in str(error.value)
    path.unlink()
    assert data.load("tfds:tiny_grey", folder).num_classes == 300


def test_the_newest_version_is_read_unless_another_is_named(tmp_path):
    for version, number in [("3.2.0", 1), ("3.10.0", 2), ("2.0.0", 3)]:
        cache.write(tmp_path, "a/b", version, "text", {"text": np.full(1, number)})
    cache.write(tmp_path, "a/b-c", "9.0.0", "text", {"text": np.full(1, 4)})
    assert cache.read(tmp_path, "a/b", None, "text")["text"].tolist() == [2]
    assert cache.read(tmp_path, "a/b", "2.0.0", "text")["text"].tolist() == [3]
    assert cache.read(tmp_path, "a/b", "2.0.1", "text") is None
    assert cache.read(tmp_path, "a/b", None, "images") is None


def test_a_folder_that_cannot_be_written_is_a_warning(folder):
    (folder / "byzjax-arrays").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="is not cached, .* BYZJAX_DATA_DIR"):
        assert data.load("tfds:tiny_colour", folder).num_classes == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:fashion_mnits", r"not a data set of tensorflow-datasets; nearest: fashion_mnist"),
        ("tfds:emnist/leters", r"emnist has no configuration 'leters'; nearest: emnist/letters"),
        ("tfds:mnist:9.9.9", r"tfds:mnist:9.9.9 cannot be opened: .*3\.0\.1"),
        ("tfds:", r"is not the name of a data set; write tfds:NAME"),
        ("tfds:../secrets", r"is not the name of a data set"),
        ("tfds:glue", r"not image classification: .* has idx: Tensor, label: ClassLabel, sentence: Text"),
        ("tfds:tiny_text", r"not image classification: .* has text: Text"),
        ("tfds:tiny_varying", r"images vary in size, \(None, None, 1\)"),
        ("tfds:food101", r"images vary in size"),  # said before five gigabytes are downloaded
        ("tfds:tiny_train", r"has the splits train; it needs train, and one of test, validation"),
        ("tfds:tiny_unlabelled", r"its split test holds no labels of 300 classes"),
    ],
)
def test_what_is_no_image_data_set(folder, name, message):
    with pytest.raises(ValueError, match=message) as error:
        data.load(name, folder)
    assert "\n" not in str(error.value)


def test_what_is_no_text(folder):
    with pytest.raises(ValueError, match=r"tfds:tiny_grey is not a text: .* has image: Image, label: ClassLabel"):
        gateway.load_text("tiny_grey", folder)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
@pytest.mark.parametrize("name", ["tfds:fashion_mnist", "tfds:cifar10", "tfds:emnist/letters", "tfds:coco"])
def test_without_tensorflow_it_is_said_what_to_install(tmp_path, name):
    with pytest.raises(ValueError, match=r"tensorflow.* pip install tensorflow") as error:
        data.load(name, tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_format_that_only_tensorflow_reads(folder):
    path = folder / "tiny_grey/1.2.0/dataset_info.json"
    path.write_text(path.read_text().replace('"fileFormat": "array_record"', '"fileFormat": "tfrecord"'))
    with pytest.raises(ValueError, match=r"as tfrecord, which only TensorFlow reads: pip install tensorflow, or"):
        data.load("tfds:tiny_grey", folder)


class Unreachable:
    """A builder that fails in the middle of a download."""

    def download_and_prepare(self, **_):
        try:
            raise OSError("Name or service not known")
        except OSError as error:
            raise ConnectionError("HTTPSConnectionPool(host='example.org'): Max retries exceeded\nmore") from error


def test_a_failed_download_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"could not be downloaded .*ConnectionError: .* retries exceeded\.$") as error:
        gateway._prepare(Unreachable(), gateway._parse("tfds:far_away"), tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_records_are_an_error_of_one_line(folder):
    (path,) = (folder / "tiny_grey/1.2.0").glob("*-train.array_record-*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"tfds:tiny_grey cannot be read from .*tiny_grey") as error:
        data.load("tfds:tiny_grey", folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("name", ["tiny_grey", "tiny_colour"])
def test_a_task_of_any_data_set(folder, monkeypatch, name, model):
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    task = tasks.classification(f"tfds:{name}", 3, 1, model=model, batch_size=4, val_size=2)
    assert task.name == f"tfds:{name}"
    scores = jax.eval_shape(task.evaluate, task.data, jax.eval_shape(task.init, jax.random.key(0)))
    assert scores["test_accuracy_per_class"].shape == ({"tiny_grey": 300, "tiny_colour": 3}[name],)


@pytest.mark.slow
def test_a_run_from_the_command_line(folder, tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", cache.VARIABLE: str(folder)}
    task = "classification('tfds:tiny_colour', scheme=iid, batch_size=4, val_size=3)"
    command = [sys.executable, "-m", "byzjax", "run", "--task", task, "--aggregator", "median", "--num-workers", "3"]
    command += ["--num-byzantine", "1", "--num-rounds", "2", "--eval-every", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "val_accuracy" in done.stdout
    command[5] = "classification('tfds:tiny_gray')"
    command[-1] = str(tmp_path / "none")
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "is not a data set of tensorflow-datasets" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_heat_map_over_degrees_of_heterogeneity(folder, tmp_path, monkeypatch):
    """From a grid file, with the degree as an axis."""
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    task = "classification('tfds:tiny_grey', scheme=gamma_similarity, gamma={}, batch_size=2, val_size=6)"
    levels = [task.format(gamma) for gamma in (0, 1)]
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f"""
[run]
task = {levels}
aggregator = "median"
attack = ["bit_flip"]
num_workers = 4
num_byzantine = [1, 0]
num_rounds = 2
eval_every = 1
[sweep]
store = "{tmp_path / "store"}"
batch_size = 1
"""
    )
    for command in (["sweep", grid], ["plot", tmp_path / "store", "--kind", "heatmap"]):
        done = CliRunner().invoke(app, [str(argument) for argument in command])
        assert done.exit_code == 0, done.output
    assert list((tmp_path / "store").glob("*heatmap*.png"))
    axis, ticks = axis_labels(results.load(tmp_path / "store" / "dataset.nc"), "task")
    assert (axis.split(": ")[1], ticks) == ("gamma", ["0", "1"])
