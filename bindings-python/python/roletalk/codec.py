"""How objects become JSON, and JSON becomes objects."""

from __future__ import annotations

import json
from typing import Any, Protocol, Union

__all__ = ["Codec", "JsonCodec", "OrjsonCodec", "default_codec"]


class Codec(Protocol):
    """Makes JSON of what is neither bytes, None, bool, int, float nor str.

    Give an object with these two methods to ``Peer(codec=...)``. What ``dumps`` makes must be JSON:
    the original peers end their process on anything else.
    """

    def dumps(self, value: Any) -> Union[bytes, str]:
        """The JSON of a value. What it raises becomes a ``DataError``."""
        ...

    def loads(self, text: bytes) -> Any:
        """The value of JSON that came from a remote peer. What it raises becomes a ``DataError``."""
        ...


class JsonCodec:
    """The standard library's ``json``. NaN and the infinities inside of objects are errors."""

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
    """The package ``orjson``, which is several times as fast.

    It also takes dataclasses, datetimes, enums and UUIDs, turns NaN and the infinities into null, and
    reads integers of more than 64 bits as floats.
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


def default_codec() -> Codec:
    """An ``OrjsonCodec`` where ``orjson`` is installed, else a ``JsonCodec``."""
    try:
        return OrjsonCodec()
    except ImportError:
        return JsonCodec()
