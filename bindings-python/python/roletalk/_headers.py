"""Headers, and answers that have some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

__all__ = ["Answer", "Headers"]

HeaderValue = Union[str, bytes]
HeadersLike = Union[Mapping[str, HeaderValue], Iterable[tuple[str, HeaderValue]]]


class Headers(Mapping[str, HeaderValue]):
    """Headers that came: a mapping of names to str or bytes, as they were sent. It cannot be changed.

    Of a name that came more than once, the mapping has the first value; ``get_all`` has all of them, in the
    order in which they were sent. Given as ``headers=`` to something else, all are sent on.
    """

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, HeaderValue]] = ()) -> None:
        self._pairs = tuple(pairs)
        self._first = dict(reversed(self._pairs))

    def get_all(self, name: str) -> list[HeaderValue]:
        """All values of a name.

        Args:
            name: The name, in lower case as all are.

        Returns:
            The values in the order in which they were sent; empty when there is none.
        """
        return [value for known, value in self._pairs if known == name]

    def pairs(self) -> list[tuple[str, HeaderValue]]:
        """All names and values.

        Returns:
            Pairs, in the order in which they were sent.
        """
        return list(self._pairs)

    def __getitem__(self, name: str) -> HeaderValue:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._pairs))

    def __len__(self) -> int:
        return len(self._first)

    def __hash__(self) -> int:
        return hash(frozenset(self._first.items()))

    def __repr__(self) -> str:
        # Values may be secrets.
        return f"<Headers {', '.join(self)}>" if self._pairs else "<Headers>"


NO_HEADERS = Headers()


@dataclass(frozen=True)
class Answer:
    """An answer with its headers, from ``Destination.call()``."""

    data: Any
    """What the handler at the other end returned."""
    headers: Headers
    """The headers that it has set."""
