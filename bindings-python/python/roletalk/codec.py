"""How objects become JSON, and JSON becomes objects.

What a value means does not hang on what is installed: it is ``JsonCodec``'s meaning unless another codec is
given in so many words, as in ``Peer(codec=roletalk.OrjsonCodec())``.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

__all__ = ["Codec", "JsonCodec", "OrjsonCodec"]


class Codec(Protocol):
    """Makes JSON of what is neither bytes, None, bool, int, float nor str.

    Give an object with these two methods to ``Peer(codec=...)``. What ``dumps`` makes must be JSON:
    the original peers end their process on anything else.
    """

    def dumps(self, value: Any) -> bytes | str:
        """The JSON of a value.

        Args:
            value: What is sent.

        Returns:
            The JSON, as UTF-8 or text.

        Raises:
            Exception: Anything: it becomes a ``DataError``.
        """
        ...

    def loads(self, text: bytes) -> Any:
        """The value of JSON that came from a remote peer.

        Args:
            text: The JSON.

        Returns:
            What handlers and requesters get.

        Raises:
            Exception: Anything: it becomes a ``DataError``.
        """
        ...


class JsonCodec:
    """The standard library's ``json``, which is the default.

    It takes dicts, lists, tuples (which arrive as lists), str, int, float, bool, None, and what is derived
    from these. Integers are exact, whatever their size. Keys of dicts that are int, float, bool or None
    become strings, as JSON has no others. NaN and the infinities inside of objects are errors, since JSON has
    none, and so is everything else: dataclasses, datetimes, UUIDs, sets.
    """

    def __init__(self) -> None:
        encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._encode = encoder.encode

    def dumps(self, value: Any) -> str:
        """The JSON of dicts, lists, tuples and what is in them."""
        return self._encode(value)

    def loads(self, text: bytes) -> Any:
        """The value of JSON; integers exactly."""
        return json.loads(text)


class OrjsonCodec:
    """The package ``orjson``, several times as fast, for those who choose it: ``pip install orjson``, then
    ``Peer(codec=roletalk.OrjsonCodec())``.

    Its meaning is ``orjson``'s: it also takes dataclasses, datetimes, enums and UUIDs; it makes null of NaN
    and of the infinities; it refuses keys that are no str and integers of more than 64 bits, and reads
    such integers as floats.

    Raises:
        ImportError: When ``orjson`` is not installed.
    """

    def __init__(self) -> None:
        import orjson

        self._dumps = orjson.dumps
        self._loads = orjson.loads

    def dumps(self, value: Any) -> bytes:
        """The JSON of a value."""
        return self._dumps(value)

    def loads(self, text: bytes) -> Any:
        """The value of JSON."""
        return self._loads(text)
