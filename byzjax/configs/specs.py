"""Specifications in text: ``"ipm(scale=10.0)"``, ``"nnm,rfa"``, and whole runs made of them.

A specification is a name from a ``REGISTRY``, or a call of one with literal arguments. It is parsed, never evaluated,
and checked against the signature of the factory: whatever does not fit is an error that says what would.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import types
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from byzjax import aggregators
from byzjax.aggregators._chain import chain
from byzjax.base import Aggregator
from byzjax.checks import quoted, shown
from byzjax.configs.literals import check_literal, choices, hints
from byzjax.data import gateway


class Spec(NamedTuple):
    """A parsed specification.

    >>> str(parse("ipm( scale = 10.0 )")), str(parse("mimic(reverse)"))
    ('ipm(scale=10.0)', "mimic('reverse')")
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = types.MappingProxyType({})

    def __str__(self) -> str:
        given = [repr(value) for value in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(given)})" if given else self.name


class Call(NamedTuple):
    """A factory and every argument that it will get, defaults included."""

    name: str
    factory: Callable[..., Any]
    arguments: dict[str, Any]

    def build(self) -> Any:
        """Call the factory.

        Raises:
          ValueError: whatever the factory refuses; its TypeErrors too, since here they are the user's.
        """
        try:
            return self.factory(**self.arguments)
        except TypeError as error:
            raise ValueError(f"{self.name}: {error}") from error


def parse(text: str) -> Spec:
    """One specification.

    Args:
      text: ``name`` or ``name(value, argument=value, …)``; values are Python literals or bare words.

    Raises:
      ValueError: anything else.

    >>> parse("krum(2, neighbors='n-f-1')")
    Spec(name='krum', args=(2,), kwargs={'neighbors': 'n-f-1'})
    """
    specs = parse_chain(text)
    if len(specs) != 1:
        raise ValueError(f"{text!r} names {len(specs)} things where one is wanted; only an aggregator is a chain.")
    return specs[0]


def parse_chain(text: str) -> list[Spec]:
    """Specifications separated by commas. Commas inside parentheses do not separate.

    Args:
      text: e.g. ``"bucketing(bucket_size=2),krum"``.

    Raises:
      ValueError: not a list of names and calls.

    >>> [spec.name for spec in parse_chain("bucketing(bucket_size=2),krum")]
    ['bucketing', 'krum']
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python's own syntax is going to refuse
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _malformed(text) from None
    return [_spec(node, text) for node in (tree.elts if isinstance(tree, ast.Tuple) and tree.elts else [tree])]


def _spec(node: ast.expr, text: str) -> Spec:
    if isinstance(node, ast.Name):
        return Spec(node.id)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise _malformed(text)
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _malformed(text)
        if keyword.arg in kwargs:
            raise ValueError(f"{text!r}: {keyword.arg} is given twice.")
        kwargs[keyword.arg] = _literal(keyword.value, text)
    return Spec(node.func.id, tuple(_literal(value, text) for value in node.args), kwargs)


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):  # a bare word, which shells make so much easier to type than a quoted one
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(
            f"{shown(text)}: {shown(ast.unparse(node))} is not a literal; write a number, a word, a 'string', True, "
            "False or None."
        ) from None


def _malformed(text: str) -> ValueError:
    return ValueError(
        f"{shown(text)} is not a specification; write name, or 'name(argument=value)', e.g. krum or 'ipm(scale=10.0)', "
        "and for an aggregator several with commas between them, e.g. nnm,rfa. What is not a plain word wants quotes, "
        "e.g. \"classification('tfds:cifar10')\"."
    )


def bind(
    spec: Spec,
    registry: Mapping[str, Callable[..., Any]],
    kind: str,
    *,
    options: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Call:
    """Find a specification's factory, and all of its arguments.

    Args:
      spec: what was asked for.
      registry: name -> factory.
      kind: what messages call an entry, e.g. ``"attack"``.
      options: arguments given in another place. The factory must take them and the specification must not repeat them.
      defaults: arguments that are used where the factory has such a parameter and nothing was said about it.

    Raises:
      ValueError: an unknown name or argument (with the nearest), an argument given twice or missing, a wrong value.

    >>> bind(parse("krum"), aggregators.REGISTRY, "aggregator", defaults={"f": 3}).arguments
    {'f': 3, 'power': 2, 'neighbors': 'n-f-2'}
    """
    factory = lookup(spec.name, registry, kind)
    parameters = inspect.signature(factory).parameters
    given = _given(spec, parameters)
    for name, value in (options or {}).items():
        _known(name, parameters, spec)
        if name in given:
            said = "given" if value is None else f"set to {value!r}"
            raise ValueError(f"{spec}: {name} is already {said} by its own option; say it once, there.")
        given[name] = value
    for name, value in (defaults or {}).items():
        if name in parameters:
            given.setdefault(name, value)

    annotated = hints(factory)
    arguments = {}
    for name, parameter in parameters.items():
        if name in given:
            if name not in (options or {}) or given[name] is not None:
                check_literal(given[name], annotated.get(name), f"{spec.name}: {name}")
            arguments[name] = given[name]
        elif parameter.default is not inspect.Parameter.empty:
            arguments[name] = parameter.default
        else:
            allowed = choices(annotated.get(name))
            example = quoted(f"{spec.name}({name}={allowed[0]!r})" if allowed else f"{spec.name}({name}=…)")
            either = f", one of {', '.join(map(repr, allowed))}" if allowed else ""
            raise ValueError(f"{spec}: {name} is missing{either}; write {example}.")
    return Call(spec.name, factory, arguments)


def lookup(name: str, registry: Mapping[str, Callable[..., Any]], kind: str) -> Callable[..., Any]:
    """The factory called ``name``.

    Raises:
      ValueError: there is none; with the nearest names, and all.

    >>> lookup("krumm", aggregators.REGISTRY, "aggregator")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown aggregator 'krumm'; nearest: krum, multi_krum. Known: ...
    """
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
    letters = re.sub(r"[^a-z0-9_]", "", name.lower())
    best = difflib.get_close_matches(letters, [*registry, *gateway.USUAL] if kind == "task" else [], n=1, cutoff=0.5)
    if best and best[0] not in registry:  # a data set is no task, and can be made one
        near = [quoted(f"classification('{gateway.PREFIX}{best[0]}')")]
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"unknown {kind} {name!r}{nearest}. Known: {', '.join(sorted(registry))}.")


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that is most like ``name``, and all of them, for a message.

    >>> nearest("atack", ["task", "attack"])
    'nearest: attack. Known: task, attack'
    """
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)
    return f"nearest: {near[0]}. Known: {', '.join(known)}" if near else "there are none"


def _given(spec: Spec, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    places = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(spec.args) > len(places):
        raise ValueError(
            f"{spec}: takes {len(places) or 'no'} unnamed arguments, not {len(spec.args)}; it is "
            f"{signature(spec.name, parameters)}."
        )
    given = dict(zip(places, spec.args, strict=False))
    for name, value in spec.kwargs.items():
        _known(name, parameters, spec)
        if name in given:
            raise ValueError(f"{spec}: {name} is given twice.")
        given[name] = value
    return given


def _known(name: str, parameters: Collection[str], spec: Spec) -> None:
    if name not in parameters:
        near = difflib.get_close_matches(name, parameters, n=1, cutoff=0.0)
        hint = f"; nearest: {near[0]}. It takes {', '.join(parameters)}." if near else "; it takes no arguments."
        raise ValueError(f"{spec}: no argument {name!r}{hint}")


def signature(name: str, of: Callable[..., Any] | Mapping[str, inspect.Parameter]) -> str:
    """How a factory is called, without annotations.

    >>> signature("krum", aggregators.REGISTRY["krum"])
    "krum(f, *, power=2, neighbors='n-f-2')"
    """
    parameters = inspect.signature(of).parameters if callable(of) else of
    parts, starred = [], False
    for parameter in parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        default = parameter.default
        text = f"{default:.4g}" if isinstance(default, float) else repr(default)
        parts.append(parameter.name if default is inspect.Parameter.empty else f"{parameter.name}={text}")
    return f"{name}({', '.join(parts)})"


def bind_rule(text: str, f: int, num_workers: int | None = None) -> list[Call]:
    """The links of an aggregator, in order.

    Args:
      text: pre-aggregations and a rule, e.g. ``"nnm,rfa"``.
      f: for every link that takes an f and was not given one.
      num_workers: likewise.

    Raises:
      ValueError: as `parse_chain` and `bind`.
    """
    defaults = {"f": f} if num_workers is None else {"f": f, "num_workers": num_workers}
    return [bind(spec, aggregators.REGISTRY, "aggregator", defaults=defaults) for spec in parse_chain(text)]


def build_rule(links: list[Call]) -> Aggregator:
    """The links as one rule.

    Raises:
      ValueError: whatever a factory refuses; a rule before the end; pre-aggregations without a rule after them.

    >>> type(build_rule(bind_rule("nnm,rfa", f=1))).__name__
    'Aggregator'
    """
    built: list[Any] = [link.build() for link in links]
    for link, rule in zip(links[:-1], built[:-1], strict=True):
        if isinstance(rule, Aggregator):
            raise ValueError(f"aggregator: {link.name} is a rule and must come last, after all pre-aggregations.")
    if not isinstance(built[-1], Aggregator):
        raise ValueError(
            f"aggregator: {links[-1].name} is a pre-aggregation; add a rule after it, e.g. {links[-1].name},rfa."
        )
    rule: Any = chain(*built)
    return rule
