from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest

import roletalk
from roletalk.codec import default_codec

from .conftest import Connect, Pair

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    5,
    2**53 + 1,
    -(2**63),
    2**64,
    10**100,
    0.5,
    -1.5e300,
    5e-324,
    math.inf,
    -math.inf,
    "",
    "text",
    "ünïcödé \U0001f600 \0",
    b"",
    b"\0\xff",
    [],
    {},
    [1, "two", None, {"three": [4.5, True]}],
    {"ключ": "значение"},
]


def codecs() -> Any:
    yield pytest.param(roletalk.JsonCodec(), id="json")
    try:
        yield pytest.param(roletalk.OrjsonCodec(), id="orjson")
    except ImportError:
        yield pytest.param(None, id="orjson", marks=pytest.mark.skip("orjson is not installed"))


async def echo(connect: Connect, codec: Any = None) -> roletalk.Destination:
    pair = await connect(worker={"codec": codec}, client={"codec": codec})
    pair.role().on_request("echo", lambda ctx: ctx.data, inline=True)
    destination: roletalk.Destination = await pair.destination()
    return destination


@pytest.mark.parametrize("codec", list(codecs()))
@pytest.mark.parametrize("value", VALUES, ids=ascii)
async def test_values_come_back_as_they_are(connect: Connect, codec: Any, value: Any) -> None:
    destination = await echo(connect, codec)
    back = await destination.request("echo", value)
    assert back == value
    assert type(back) is type(value)


async def test_bytes_like_values_are_bytes(connect: Connect) -> None:
    destination = await echo(connect)
    for value in (bytearray(b"xy"), memoryview(b"xy"), memoryview(b"x_y_")[::2]):
        assert await destination.request("echo", value) == b"xy"


async def test_numbers(connect: Connect) -> None:
    destination = await echo(connect)
    assert math.isnan(await destination.request("echo", math.nan))
    # As JavaScript, which knows one kind of number only, writes them.
    assert repr(await destination.request("echo", 5.0)) == "5"
    assert repr(await destination.request("echo", -0.0)) == "0"
    # Integers inside of objects are exact, too.
    assert await destination.request("echo", [2**63 + 1]) == [2**63 + 1]


@pytest.mark.parametrize("codec", list(codecs()))
async def test_values_that_cannot_be_sent(connect: Connect, codec: Any) -> None:
    destination = await echo(connect, codec)
    for value in ({1, 2}, object(), "\ud800", [object()]):
        with pytest.raises(roletalk.DataError):
            destination.request("echo", value)
    assert await destination.request("echo", "still here") == "still here"


async def test_json_that_is_none_is_an_error(connect: Connect) -> None:
    destination = await echo(connect, roletalk.JsonCodec())
    for value in (math.nan, math.inf):
        with pytest.raises(roletalk.DataError):
            destination.request("echo", [value])


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="this Python has no limit")
async def test_integers_that_take_too_long_to_print(connect: Connect) -> None:
    destination = await echo(connect)
    with pytest.raises(roletalk.DataError):
        destination.request("echo", 10**5000)


class Marked:
    """A codec of the application's."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps({"v": value}).encode()

    def loads(self, text: bytes) -> Any:
        return json.loads(text)["v"]


class Broken:
    def dumps(self, value: Any) -> Any:
        return 5

    def loads(self, text: bytes) -> Any:
        raise RuntimeError("cannot read")


async def test_a_codec_of_the_applications(connect: Connect) -> None:
    destination = await echo(connect, Marked())
    assert await destination.request("echo", [1]) == [1]


async def test_a_codec_that_fails(connect: Connect) -> None:
    pair: Pair = await connect(worker={"codec": Broken()}, client={"codec": Marked()})
    pair.role().on_request("echo", lambda ctx: ctx.data, inline=True)
    pair.role().on_request("list", lambda ctx: [], inline=True)
    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match="cannot be read: cannot read"):
        await destination.request("echo", [1])
    with pytest.raises(roletalk.RejectedError, match="neither str nor bytes"):
        await destination.request("list")
    assert await destination.request("echo", 1) == 1


def test_the_default_codec_is_orjson_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("orjson")
    assert isinstance(default_codec(), roletalk.OrjsonCodec)
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert isinstance(default_codec(), roletalk.JsonCodec)
