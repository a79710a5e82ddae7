"""The embedded data sets: the right bytes, or one clear error."""

import shutil
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from byzjax import data
from byzjax.data import mnist

# The number of training images of each digit, as published.
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture
def copy_of_mnist(tmp_path):
    return shutil.copytree(mnist.FOLDER, tmp_path / "mnist")


def test_mnist_has_the_published_content():
    ds = data.load("mnist")
    assert ds.train_images.shape == (60_000, 28, 28)
    assert ds.test_images.shape == (10_000, 28, 28)
    assert ds.num_classes == 10
    assert all(array.dtype == np.uint8 for array in ds[:4])
    assert np.bincount(ds.train_labels).tolist() == TRAIN_COUNTS
    assert np.bincount(ds.test_labels).tolist() == TEST_COUNTS
    # The mean and deviation that everybody normalises by.
    assert ds.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert ds.train_images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_images_and_labels_belong_together():
    """A digit's nearest class mean is mostly its own: 82 % is known, a shuffle would give 10 %."""
    ds = data.load("mnist")
    pixels = ds.train_images.reshape(-1, 784).astype(np.float32)
    means = np.stack([pixels[ds.train_labels == label].mean(0) for label in range(10)])
    test = ds.test_images.reshape(-1, 784).astype(np.float32)
    scores = test @ means.T - 0.5 * np.sum(means * means, axis=1)[None, :]
    assert np.mean(scores.argmax(1) == ds.test_labels) == pytest.approx(0.82, abs=0.005)


def test_the_cache_is_shared_and_cannot_be_corrupted():
    first, second = data.load("mnist"), data.load("mnist")
    for a, b in zip(first[:4], second[:4], strict=True):
        assert a is b
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            a.flags.writeable = True


def test_loading_takes_less_than_two_seconds():
    start = time.process_time()  # not the wall's: other test processes want the same cores
    mnist.read(mnist.FOLDER)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("name", mnist.SHA256)
def test_one_flipped_bit_is_noticed(copy_of_mnist, name):
    path = copy_of_mnist / f"{name}.xz"
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=rf"{name}.xz is corrupt: its SHA-256 .* Reinstall byzjax"):
        mnist.read(copy_of_mnist)


def test_a_truncated_file_is_noticed(copy_of_mnist):
    path = copy_of_mnist / "t10k-labels-idx1-ubyte.xz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path.name} is corrupt"):
        mnist.read(copy_of_mnist)


def test_a_missing_file_is_named(copy_of_mnist):
    path = copy_of_mnist / "train-labels-idx1-ubyte.xz"
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read .*Reinstall byzjax"):
        mnist.read(copy_of_mnist)


@pytest.mark.parametrize(
    ("name", "near"),
    [("mnst", "mnist"), ("MNIST", "mnist"), ("shakspere", "shakespeare"), ("", ".*"), (None, ".*")],
)
def test_an_unknown_name_lists_the_known_ones(name, near):
    with pytest.raises(ValueError, match=rf"name={name!r} .*nearest: '{near}'. Known: .*mnist"):
        data.load(name)


@pytest.mark.parametrize("name", ["cifar10", "CIFAR-10", "cifar"])
def test_a_name_of_tensorflow_datasets_is_suggested_with_its_prefix(name):
    with pytest.raises(ValueError, match=rf"name='{name}' is not a data set; nearest: 'tfds:cifar10'. Known: "):
        data.load(name)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\0",  # no axes
        b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"\0" * 4,  # float32, not unsigned bytes
        b"\x1f\x8b\x08\x01" + struct.pack(">I", 1) + b"\0",  # gzip
        b"\0\0\x08\x03" + struct.pack(">I", 1),  # two of three lengths are missing
    ],
)
def test_a_wrong_idx_header_is_refused(raw):
    with pytest.raises(ValueError, match=r"data file digits is not an IDX file"):
        mnist.parse_idx(raw, "digits")


@pytest.mark.parametrize("num_bytes", [0, 5, 7])
def test_a_length_that_contradicts_the_header_is_refused(num_bytes):
    raw = b"\0\0\x08\x02" + struct.pack(">2I", 2, 3) + b"\0" * num_bytes
    with pytest.raises(ValueError, match=rf"holds {num_bytes} bytes, .*\(2, 3\)"):
        mnist.parse_idx(raw, "digits")


def test_idx_lengths_are_big_endian_and_rows_come_first():
    raw = b"\0\0\x08\x02" + struct.pack(">2I", 2, 3) + bytes(range(6))
    assert mnist.parse_idx(raw, "digits").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_readme_names_the_checksums_that_the_code_verifies():
    text = (mnist.FOLDER / "README.md").read_text()
    for name, sha256 in mnist.SHA256.items():
        assert f"`{name}.xz`" in text
        assert sha256 in text


def test_every_registered_data_set_obeys_the_contract():
    for name, loader in data.REGISTRY.items():
        assert (loader.__doc__ or "").strip(), name
        if name == "tiny_shakespeare":  # not in the package; texts have tests of their own
            continue
        ds = data.load(name)
        assert ds is loader()
        if isinstance(ds, data.Text):
            continue
        for images, labels in [ds[:2], ds[2:4]]:
            assert len(images) == len(labels) > 0
            assert set(np.unique(labels)) <= set(range(ds.num_classes))


def test_reading_data_needs_neither_jax_nor_tensorflow_datasets():
    """`byzjax` itself loads JAX, so the module is imported with an empty parent package."""
    code = """
import sys, types
parent = types.ModuleType("byzjax")
parent.__path__ = [sys.argv[1]]
sys.modules["byzjax"] = parent
import byzjax.data
byzjax.data.load("mnist")
byzjax.data.load("shakespeare")
print(*({"jax", "tensorflow_datasets", "flax", "pandas"} & set(sys.modules)))
"""
    folder = str(mnist.FOLDER.parents[2])
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
