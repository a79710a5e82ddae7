"""What the words of a metric's name say: which end of it is good, how it is shown, whether it is of test data."""

from __future__ import annotations

import re
from typing import Literal

Best = Literal["max", "min"]

_SHARES = frozenset(("accuracy", "accuracies"))
_NUMBERS = ("norm", "objective", "distance", "error", "perplexity", "spread", "kappa", "suboptimality")
_SIZES = frozenset((*_NUMBERS, *(f"{word}s" for word in _NUMBERS), "loss", "losses", "perplexities"))
_TURNED = frozenset(("neg", "negative", "minus", "inverse"))  # as in neg_loss, of which much is good
_TEST = frozenset(("test", "tests", "testing", "testset", "testdata"))


def words(name: str) -> tuple[str, ...]:
    """The words of a name, in small letters: whatever is no letter or digit separates, and so do camels' humps.

    >>> words("val_accuracy"), words("Test-Accuracy"), words("train/lossPerClass"), words("HTTPLoss2")
    (('val', 'accuracy'), ('test', 'accuracy'), ('train', 'loss', 'per', 'class'), ('http', 'loss', '2'))
    """
    return tuple(word for part in _parts(name) for word in _humps(part))


def _parts(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name)


def _humps(part: str) -> list[str]:
    spaced = ""
    for before, here, after in zip(" " + part, part, part[1:] + " ", strict=False):
        hump = here.isupper() and (before.islower() or (before.isupper() and after.islower()))
        spaced += f" {here}" if hump or here.isdigit() != before.isdigit() else here
    return spaced.casefold().split()


def direction(name: str) -> Best | None:
    """Whether much or little of a metric is good; None where its words do not say, or say both.

    >>> direction("val_accuracy"), direction("gradientNorm"), direction("val_normalized_score")
    ('max', 'min', None)
    >>> direction("val_accuracy_loss"), direction("neg_loss")
    (None, None)
    """
    there = set(words(name))
    much, little = bool(there & _SHARES), bool(there & _SIZES)
    if much == little or there & _TURNED:
        return None
    return "max" if much else "min"


def is_test(name: str) -> bool:
    """Whether a metric is measured on test data.

    >>> [is_test(name) for name in ("Test_accuracy", "accuracy-test", "testAccuracy", "testloss", "val_latest_loss")]
    [True, True, True, True, False]
    """
    there = {*words(name), *(part.casefold() for part in _parts(name))}
    glued = {word.removeprefix("test") for word in there if word.startswith("test")}
    return bool(there & _TEST or glued & (_SHARES | _SIZES | {"acc"}))


def is_share(name: str) -> bool:
    """Whether a metric lies between 0 and 1 and is shown in per cent.

    >>> is_share("test_accuracy_per_class"), is_share("val_accuracy_loss")
    (True, False)
    """
    return direction(name) == "max"


def is_logarithmic(name: str) -> bool:
    """Whether a metric is a size that spans powers of ten: a norm, a loss, an error, a distance.

    >>> is_logarithmic("gradient_norm"), is_logarithmic("val_normalized_score")
    (True, False)
    """
    return direction(name) == "min"
