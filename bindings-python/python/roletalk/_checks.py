"""What arguments have to be, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def instance(name: str, value: Any, kind: type[Any] | tuple[type[Any], ...], what: str) -> None:
    """Raises ``TypeError`` for what is of another kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}")


def seconds(name: str, value: Any) -> None:
    """Raises for what is no positive number."""
    instance(name, value, (int, float), "a number of seconds")
    if not value > 0:
        raise ValueError(f"{name} must be a positive number of seconds")


def texts(name: str, value: Mapping[str, str] | None) -> None:
    """Raises for what is neither None nor a mapping of texts to texts."""
    if value is None:
        return
    instance(name, value, Mapping, "a mapping of str to str")
    for key, text in value.items():
        instance(f"a key of {name}", key, str, "a str")
        instance(f"{name}[{key!r}]", text, str, "a str")


def names(name: str, value: Iterable[str]) -> list[str]:
    """The texts of an iterable. Raises for what is none, a single text as well."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"{name} must be an iterable of str, such as a list, not {kind}")
    texts = list(value)
    for text in texts:
        instance(f"each of {name}", text, str, "a str")
    return texts


def listed(name: str, value: str | Iterable[str | int] | None) -> str | None:
    """A list as a text. Raises for what is neither a text nor an iterable of texts and numbers."""
    if value is None or isinstance(value, str):
        return value
    instance(name, value, Iterable, "a str or an iterable of them")
    parts = list(value)
    for part in parts:
        instance(f"what is in {name}", part, (str, int), "a str")
    return ",".join(map(str, parts))
