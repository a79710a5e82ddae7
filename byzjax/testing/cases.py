"""Test cases made from the registries: every name in every published variant."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from byzjax import aggregators, attacks
from byzjax.promises import Traits, traits_of

# How to fill required parameters that have no small set of choices. ``f`` and ``num_workers`` are filled per test.
_FILL: dict[str, Any] = {"bucket_size": 2, "deviation": 100.0, "eps": 6.0, "diameter": 10.0, "num_rounds": 100}


class Case(NamedTuple):
    """One registered factory in one variant.

    Attributes:
      name: in the registry.
      options: the variant, without f.
      factory: the factory itself.
      takes_f: whether it has a parameter f.
      takes_n: whether it has a parameter num_workers.
      traits: what it promises.
    """

    name: str
    options: dict[str, Any]
    factory: Callable[..., Any]
    takes_f: bool
    takes_n: bool
    traits: Traits

    @property
    def id(self) -> str:
        return self.name + "".join(f"-{key}={value}" for key, value in self.options.items())

    def make(self, f: Any = 1, num_workers: int = 0, **options: Any) -> Any:
        counts = {"f": f} if self.takes_f else {}
        counts |= {"num_workers": num_workers} if self.takes_n else {}
        return self.factory(**counts, **self.options, **options)

    def most_f(self, num_workers: int) -> int:
        """The largest f that the rule takes among so many workers."""
        per_f, more = self.traits.workers_needed
        return max((num_workers - more) // per_f, 0)


def rule_cases() -> list[Case]:
    """Every rule and pre-aggregation, in its default and in each variant of each of its options."""
    return list(_cases(aggregators.REGISTRY))


def attack_cases() -> list[Case]:
    """Every attack, in its default and in each variant of each of its options."""
    return list(_cases(attacks.REGISTRY))


def _cases(registry: dict[str, Callable]) -> Iterator[Case]:
    known = set()  # an alias has no variants of its own
    for name, factory in registry.items():
        parameters = inspect.signature(factory).parameters
        hints = typing.get_type_hints(factory)
        choices = {key: _literals(hints[key]) for key in parameters}
        required = {
            key: _FILL.get(key, choices[key][0] if choices[key] else None)
            for key, parameter in parameters.items()
            if parameter.default is inspect.Parameter.empty and key not in ("f", "num_workers")
        }
        missing = [key for key, value in required.items() if value is None]
        if missing:
            raise ValueError(f"testing: say in byzjax/testing/cases.py how to fill {missing} of {name}.")
        seen = [required]
        for key, values in choices.items() if factory not in known else ():
            for value in values:
                if value != parameters[key].default and (variant := {**required, key: value}) not in seen:
                    seen.append(variant)
        known.add(factory)
        for options in seen:
            traits = traits_of(factory)
            chosen = {f"{key}={value}" for key, value in options.items()}
            traits = traits._replace(
                robust=traits.robust and chosen.isdisjoint(traits.fragile),
                averaging=traits.averaging and chosen.isdisjoint(traits.lossy),
            )
            yield Case(name, options, factory, "f" in parameters, "num_workers" in parameters, traits)


def _literals(hint: Any) -> list[Any]:
    """All values of the Literals in a type hint."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [value for part in typing.get_args(hint) for value in _literals(part)]
