"""Rules, attacks, methods and tasks as values: what a factory makes of equal arguments is equal.

`value` records on the product which factory made it, and of what. Equality, hash, ``repr`` and pickling follow: a
rule made twice is one static argument of `jax.jit`, hence one program; and it goes to another process as a call.
"""

from byzjax.values.constants import numbers_as_constants
from byzjax.values.made import Call, Value, made_again, plain, value
from byzjax.values.templates import Template, lifted, takes_as_argument, with_constants

__all__ = [
    "Call",
    "Template",
    "Value",
    "lifted",
    "made_again",
    "numbers_as_constants",
    "plain",
    "takes_as_argument",
    "value",
    "with_constants",
]
