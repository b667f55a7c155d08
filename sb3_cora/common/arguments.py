"""
Constructor arguments that are declared once and shown everywhere.

A constructor names only the arguments that its class adds, and passes all others to its parent. A ``TypedDict`` holds their
names and types, for type checkers and editors: ``def __init__(self, policy, env, *args, own=1, **kwargs: Unpack[Others])``.
Their defaults and descriptions are those of the parent. The functions below show them at run time as well, in
``inspect.signature`` and ``help``.
"""

import inspect
import re
from inspect import Parameter, Signature
from typing import Any, get_args


def full_signature(classes: tuple[type, ...]) -> Signature:
    """
    :param classes: A class and its parents, in the order in which Python looks for methods.
    :return: All parameters of the constructor, without ``self``. Those that the class adds by name come last, followed by
        ``**kwargs`` if these are not described by a ``TypedDict``, so that only the constructor knows them.
    """
    position = next(index for index, cls in enumerate(classes) if "__init__" in vars(cls))
    own = list(inspect.signature(classes[position].__init__).parameters.values())[1:]  # type: ignore[misc]
    kwargs = next((parameter for parameter in own if parameter.kind is Parameter.VAR_KEYWORD), None)
    if kwargs is None:
        return Signature(own)
    parents = full_signature(classes[position + 1 :]).parameters
    typed_dict = get_args(kwargs.annotation)
    names = typed_dict[0].__annotations__ if typed_dict else parents
    own_names = {parameter.name for parameter in own}
    inherited = [parents[name] for name in parents if name in names and name not in own_names]
    if not any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in own):
        inherited = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in inherited]
    parameters = [parameter for parameter in (*own, *inherited) if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
    parameters += [parameter for parameter in (*inherited, *own) if parameter.kind is Parameter.KEYWORD_ONLY]
    return Signature([*parameters, *([] if typed_dict else [kwargs])])


class FullSignature:
    """The attribute ``__signature__`` of a class, which ``inspect`` and ``help`` read: see :func:`full_signature`."""

    def __get__(self, instance: Any, owner: type) -> Signature:
        return full_signature(owner.__mro__)


def full_docstring(cls: type) -> str | None:
    """
    :param cls: A class whose docstring describes the arguments that it adds, and whose parents' docstrings are complete.
    :return: The docstring with the descriptions of all arguments, in the order of the signature. None if the class has no
        docstring.
    """
    if cls.__doc__ is None:
        return None
    text, fields = split_docstring(cls.__doc__)
    for parent in cls.__mro__[1:]:
        fields = {**split_docstring(parent.__doc__ or "")[1], **fields}
    names = [*(f"param {name}" for name in full_signature(cls.__mro__).parameters), "raises ValueError"]
    return "\n".join((text.rstrip() + "\n", *(fields[name] for name in names if name in fields)))


def split_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """
    :param docstring: Docstring of a class, with its fields (``:param x: ...``) at its end.
    :return: The text before the fields, and the fields by name (``"param x"``).
    """
    text, *fields = re.split(r"^(?=:)", inspect.cleandoc(docstring), flags=re.MULTILINE)
    return text, {field.split(":", 2)[1]: field.rstrip() for field in fields}
