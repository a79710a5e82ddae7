"""The data sets of tensorflow-datasets as arrays: prepared once, then read from a cache without it.

A data set is prepared by tensorflow-datasets, which needs TensorFlow for most of them. One that is prepared in a
format with random access (``array_record``) is read without TensorFlow, wherever it was prepared.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byzjax.data import cache
from byzjax.data.base import Dataset

PREFIX = "tfds:"
TEST_SPLITS = ("test", "validation", "valid", "val")  # the first that a data set has is its test set
_TEXT_SPLITS = ("train", "validation", "valid", "val", "test")
_NAME = re.compile(r"(?P<base>\w+)(/(?P<config>[\w.=,+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# What is asked for most, for messages that must not wait for tensorflow-datasets; the gateway takes many more.
USUAL = ("cifar10", "cifar100", "emnist", "fashion_mnist", "kmnist", "svhn_cropped", "imagenet_resized", "eurosat")


class Name(NamedTuple):
    """``NAME``, ``NAME/CONFIG`` or ``NAME/CONFIG:1.2.3``."""

    plain: str  # without the version
    version: str | None

    def __str__(self) -> str:
        return PREFIX + self.plain + (f":{self.version}" if self.version else "")

    @property
    def in_tfds(self) -> str:
        return str(self).removeprefix(PREFIX)


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """An image classification data set of tensorflow-datasets.

    It is looked for in the cache of arrays, then as prepared by tensorflow-datasets in ``data_dir`` (or where
    tensorflow-datasets itself keeps data), and at last downloaded and prepared in ``data_dir``. Arrays go to the cache
    in ``data_dir/byzjax-arrays``, under a name that holds their checksum.

    Args:
      name: as in tensorflow-datasets: ``"tfds:fashion_mnist"``, ``"tfds:emnist/letters"``, ``"tfds:cifar10:3.0.2"``.
      data_dir: a folder of data sets; ``$BYZJAX_DATA_DIR``, else ``~/.cache/byzjax`` by default.

    Returns:
      A `Dataset`. Its test set is the split ``test``, of data sets without one their validation split. Grey images are
      ``uint8[N, height, width]``, colour images ``uint8[N, height, width, 3]``; labels are ``int32[N]``.

    Raises:
      ValueError: no such data set (with the nearest name); not image classification, images of varying size, no second
        split; TensorFlow or another package is missing; the download failed; a corrupt or unwritable cache.
    """
    return _load(_parse(name), cache.folder(data_dir), data_dir is None)


def load_text(name: str, data_dir: str | Path | None = None) -> str:
    """A text data set of tensorflow-datasets as one text: its training, validation and test splits, in this order.

    Texts of one split are separated by line breaks, splits by nothing: ``tiny_shakespeare`` is then the original file.

    Args:
      name: e.g. ``"tiny_shakespeare"``, with or without ``tfds:`` before it.
      data_dir: as in `load`.

    Raises:
      ValueError: as `load`; the data set has no feature that is a text, or several.
    """
    parsed, root = _parse(name), cache.folder(data_dir)
    arrays = cache.read(root, parsed.plain, parsed.version, "text")
    if arrays is None:
        builder = _prepared(parsed, root, data_dir is None, _text_feature)
        feature, splits = _text_feature(builder, parsed), builder.info.splits
        parts = [
            b"\n".join(example[feature] for example in _examples(builder, split, parsed))
            for split in sorted(splits, key=lambda s: (_TEXT_SPLITS.index(s) if s in _TEXT_SPLITS else 9, s))
        ]
        arrays = {"text": np.frombuffer(b"".join(parts), np.uint8)}
        _keep(root, parsed, builder, "text", arrays)
    return arrays["text"].tobytes().decode("utf-8")


@functools.lru_cache(maxsize=4)
def _load(name: Name, root: Path, anywhere: bool) -> Dataset:
    arrays = cache.read(root, name.plain, name.version, "images")
    if arrays is None:
        builder = _prepared(name, root, anywhere, _image_features)
        arrays = _images(builder, name)
        _keep(root, name, builder, "images", arrays)
    for array in arrays.values():
        array.flags.writeable = False
    return Dataset(*(arrays[field] for field in Dataset._fields[:4]), num_classes=int(arrays["num_classes"]))


def _parse(name: str) -> Name:
    match = _NAME.fullmatch(str(name).removeprefix(PREFIX))
    if match is None:
        raise ValueError(f"name={name!r} is not the name of a data set; write tfds:NAME, or tfds:NAME/CONFIG:1.2.3.")
    config = f"/{match['config']}" if match["config"] else ""
    return Name(match["base"] + config, match["version"])


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            f"tensorflow-datasets cannot be imported ({error}); pip install tensorflow-datasets importlib_resources."
        ) from error
    return tensorflow_datasets


def _prepared(name: Name, root: Path, anywhere: bool, features: Any) -> Any:
    """A builder whose data are on disk; prepares them in ``root`` if they are nowhere."""
    tfds = _tfds()
    usual = Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    for place in [root, usual] if anywhere else [root]:
        paths = (place / name.plain).glob(f"{name.version or '*.*.*'}/dataset_info.json")
        # What an interrupted preparation leaves has a folder beside them, incomplete.XYZ_1.2.0.
        found = [path.parent for path in paths if _VERSION.fullmatch(path.parent.name)]
        if found:
            return _opened(lambda found=found: tfds.builder_from_directory(str(cache.newest(found))), name, root)
    builder = _opened(lambda: tfds.builder(name.in_tfds, data_dir=str(root), file_format="array_record"), name, root)
    features(builder, name)  # before gigabytes are downloaded
    if not Path(str(builder.data_dir), "dataset_info.json").is_file():  # else the default configuration is there
        _prepare(builder, name, root)
    return builder


def _opened(build: Any, name: Name, root: Path) -> Any:
    tfds = _tfds()
    try:
        return build()
    except tfds.core.registered.DatasetNotFoundError:
        near = _nearest(name.plain.split("/")[0], tfds.list_builders(with_community_datasets=False))
        raise ValueError(f"name='{name}' is not a data set of tensorflow-datasets; nearest: {near}.") from None
    except Exception as error:
        base, _, config = name.plain.partition("/")
        if config and "BuilderConfig" in str(error):
            known = list(tfds.builder_cls(base).builder_configs)
            raise ValueError(
                f"name='{name}': {base} has no configuration {config!r}; nearest: {base}/{_nearest(config, known)}."
            ) from None
        raise ValueError(f"{name} cannot be opened: {_reason(error, name, root)}") from error


def _prepare(builder: Any, name: Name, root: Path) -> None:
    tfds = _tfds()
    if "tf" in vars(sys.modules[type(builder).__module__]) and importlib.util.find_spec("tensorflow") is None:
        raise ValueError(f"{name} is not in {root}: {_remedy('tensorflow', name, root)}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:
        why = _reason(error, name, root)
        raise ValueError(f"{name} could not be downloaded and prepared in {root}: {why}") from error


def _remedy(package: str, name: Name, root: Path) -> str:
    remedy = f"pip install {package}"
    if package == "tensorflow":
        remedy += (
            f", or prepare it on a machine that has it, tfds.load('{name.in_tfds}', builder_kwargs={{'file_format': "
            f"'array_record'}}), and copy its folder to {root}"
        )
    return f"tensorflow-datasets needs {package} to prepare it: {remedy}."


def _reason(error: BaseException, name: Name, root: Path) -> str:
    """An error in one line: the package that is missing, or what it says itself."""
    cause: BaseException | None = error
    while cause is not None:
        missing = re.search(r"No module named '(\w+)", str(cause)) if isinstance(cause, ImportError) else None
        if missing:
            return _remedy(missing[1], name, root)
        cause = cause.__cause__ or cause.__context__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {textwrap.shorten(line, 300, placeholder=' …')}".rstrip(".") + "."


def _nearest(name: str, known: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))


def _feature(builder: Any, kinds: str, usual: str) -> str | None:
    """The feature of a kind: the one that is called as usual, or the only one."""
    kind, features = getattr(_tfds().features, kinds), builder.info.features
    keys = [key for key, feature in dict(features or {}).items() if isinstance(feature, kind)]
    return usual if usual in keys else keys[0] if len(keys) == 1 else None


def _image_features(builder: Any, name: Name) -> tuple[str, str]:
    image, label = _feature(builder, "Image", "image"), _feature(builder, "ClassLabel", "label")
    if image is None or label is None:
        raise ValueError(
            f"{name} is not image classification: it needs one Image and one ClassLabel, and has {_listed(builder)}."
        )
    feature = builder.info.features[image]
    if None in feature.shape:
        raise ValueError(f"{name}: its images vary in size, {feature.shape}; use a data set of equal images.")
    if np.dtype(feature.np_dtype) != np.uint8:
        raise ValueError(f"{name}: its pixels are {np.dtype(feature.np_dtype)}; use a data set of uint8 images.")
    return image, label


def _text_feature(builder: Any, name: Name) -> str:
    feature = _feature(builder, "Text", "text")
    if feature is None:
        raise ValueError(f"{name} is not a text: it needs one feature Text, and has {_listed(builder)}.")
    return feature


def _listed(builder: Any) -> str:
    features = sorted(dict(builder.info.features or {}).items())
    return ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features) or "no named features"


def _images(builder: Any, name: Name) -> dict[str, np.ndarray]:
    image, label = _image_features(builder, name)
    splits = builder.info.splits
    test = next((split for split in TEST_SPLITS if split in splits), None)
    if "train" not in splits or test is None:
        raise ValueError(
            f"{name}: it has the splits {', '.join(splits)}; it needs train, and one of {', '.join(TEST_SPLITS)}."
        )
    num_classes = builder.info.features[label].num_classes
    shape = builder.info.features[image].shape
    shape = shape[:2] if shape[2:] == (1,) else shape
    arrays = {"num_classes": np.asarray(num_classes)}
    for field, split in (("train", "train"), ("test", test)):
        size = splits[split].num_examples
        images, labels = np.empty((size, *shape), np.uint8), np.empty(size, np.int32)
        for place, example in enumerate(_examples(builder, split, name)):
            images[place], labels[place] = example[image].reshape(shape), example[label]
        if size == 0 or labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"{name}: its split {split} holds no labels of {num_classes} classes.")
        arrays |= {f"{field}_images": images, f"{field}_labels": labels}
    return arrays


def _examples(builder: Any, split: str, name: Name) -> Iterator[dict[str, Any]]:
    from tqdm import tqdm

    tfds = _tfds()
    random_access = str(getattr(builder.info.file_format, "value", "")) in ("array_record", "parquet")
    if not random_access and importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"{name} is prepared in {builder.data_dir} as {builder.info.file_format.value}, which only TensorFlow "
            "reads: pip install tensorflow, or prepare it with file_format='array_record'."
        )
    try:
        if random_access:
            source = builder.as_data_source(split=split)
            stream = (source[place] for place in range(len(source)))
        else:
            stream = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
        total = builder.info.splits[split].num_examples
        yield from tqdm(stream, f"{name}: {split}", total, disable=None, leave=False)
    except Exception as error:
        why = _reason(error, name, Path(str(builder.data_dir)))
        raise ValueError(f"{name} cannot be read from {builder.data_dir}: {why}") from error


def _keep(root: Path, name: Name, builder: Any, kind: str, arrays: dict[str, np.ndarray]) -> None:
    try:
        cache.write(root, name.plain, str(builder.version), kind, arrays)
    except OSError as error:
        warnings.warn(
            f"{name} is not cached, {root} cannot be written ({error.strerror}); set {cache.VARIABLE}.", stacklevel=4
        )
