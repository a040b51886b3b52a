from __future__ import annotations

import ctypes
import json
import math
import mmap
import sys
from array import array
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import UUID

import pytest

import roletalk

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


@dataclass
class Point:
    x: int


class Colour(Enum):
    RED = 1


async def meanings(connect: Connect) -> dict[str, Any]:
    """What becomes of values about which codecs differ."""
    values: dict[str, Any] = {
        "dataclass": Point(1),
        "datetime": datetime(2020, 1, 1),
        "uuid": UUID(int=1),
        "enum": Colour.RED,
        "key": {1: 2},
        "keys": {None: 1, True: 2, 1.5: 3},
        "NaN": [math.nan],
        "infinity": [math.inf],
        "large": [2**100],
        "tuple": (1, (2,)),
        "set": {1},
    }
    destination = await echo(connect)
    found: dict[str, Any] = {}
    for name, value in values.items():
        try:
            found[name] = await destination.request("echo", value)
        except roletalk.DataError:
            found[name] = roletalk.DataError
    return found


async def test_what_a_value_means_hangs_on_nothing_installed(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = roletalk.DataError
    documented = {
        "dataclass": error,
        "datetime": error,
        "uuid": error,
        "enum": error,
        "key": {"1": 2},
        "keys": {"null": 1, "true": 2, "1.5": 3},
        "NaN": error,
        "infinity": error,
        "large": [2**100],
        "tuple": [1, [2]],
        "set": error,
    }
    assert await meanings(connect) == documented
    # As if it were installed, and as if it were not.
    stub = SimpleNamespace(dumps=lambda value: b'"orjson"', loads=lambda text: "orjson")
    for installed in (stub, None):
        monkeypatch.setitem(sys.modules, "orjson", installed)
        assert await meanings(connect) == documented


def test_a_codec_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    with pytest.raises(ImportError):
        roletalk.OrjsonCodec()


class Bits(ctypes.Structure):
    _fields_: ClassVar = [("a", ctypes.c_uint16)]


def exporters() -> dict[str, tuple[Any, bytes]]:
    """What has the buffer protocol, and its bytes."""
    mapped = mmap.mmap(-1, 4)
    mapped.write(b"abcd")
    matrix = memoryview(bytes(range(12))).cast("B", (3, 4))
    return {
        "bytes": (b"xy", b"xy"),
        "bytearray": (bytearray(b"xy"), b"xy"),
        "memoryview": (memoryview(b"xy"), b"xy"),
        "slice": (memoryview(b"x_y_")[::2], b"xy"),
        "reversed": (memoryview(b"yx")[::-1], b"xy"),
        "array": (array("H", [0x7878, 0x7979]), b"xxyy"),
        "array of floats": (array("d", [0.0]), bytes(8)),
        "empty array": (array("i"), b""),
        "every other item": (memoryview(array("H", [0x7878, 0, 0x7979]))[::2], b"xxyy"),
        "two dimensions": (matrix, bytes(range(12))),
        "rows of two dimensions": (matrix[::2], bytes([0, 1, 2, 3, 8, 9, 10, 11])),
        "mmap": (mapped, b"abcd"),
        "ctypes array": ((ctypes.c_char * 2)(b"x", b"y"), b"xy"),
        "ctypes structure": (Bits(0x7878), b"xx"),
    }


@pytest.mark.parametrize("name", exporters())
async def test_the_buffer_protocol(connect: Connect, name: str) -> None:
    value, expected = exporters()[name]
    pair = await connect()
    got: list[Any] = []
    role = pair.role()
    role.on_request("answer", lambda ctx: value, inline=True)
    role.on_request("thread", lambda ctx: value)
    role.on_message("message", lambda ctx: got.append(ctx.data), inline=True)

    @role.on_readable("upload")
    async def upload(ctx: roletalk.Context) -> None:
        got.append(ctx.data)
        async with ctx.accept(value) as stream:
            got.append(await stream.read())

    destination = await pair.destination_of("role")
    assert await destination.request("echo", value) == expected
    assert await destination.request("answer") == expected
    assert await destination.request("thread") == expected
    async with destination.writable("upload", value) as stream:
        assert stream.answer == expected
        await stream.write(value)
    await destination.send("message", value)
    await destination.broadcast("message", value)
    assert [answer.data async for answer in destination.survey("echo", value)] == [expected]
    assert got == [expected] * 4
    if isinstance(value, bytearray):
        # Nobody holds it.
        value.extend(b"z")


async def test_buffers_that_cannot_be_sent(connect: Connect) -> None:
    destination = await echo(connect)
    released = memoryview(b"x")
    released.release()
    pointers = (ctypes.py_object * 1)(object())  # type: ignore[misc]
    for value in (released, pointers):
        with pytest.raises(roletalk.DataError, match="cannot be sent"):
            destination.request("echo", value)
    pair = await connect()

    @pair.role().on_readable("upload")
    async def upload(ctx: roletalk.Context) -> None:
        await ctx.accept().read()

    async with (await pair.destination()).writable("upload") as stream:
        with pytest.raises(TypeError, match="buffer protocol, not str"):
            await stream.write("text")  # type: ignore[arg-type]


async def test_arrays_of_numpy(connect: Connect) -> None:
    numpy = pytest.importorskip("numpy")
    destination = await echo(connect)
    columns = numpy.asfortranarray(numpy.arange(6, dtype="u1").reshape(2, 3))
    for value in (columns, columns[:, ::2], columns.T):
        assert await destination.request("echo", value) == value.tobytes()
    with pytest.raises(roletalk.DataError, match="Python objects"):
        destination.request("echo", numpy.array([object()]))


async def test_a_number_that_exports_its_bytes_is_a_number(connect: Connect) -> None:
    numpy = pytest.importorskip("numpy")
    destination = await echo(connect)
    assert await destination.request("echo", numpy.float64(1.5)) == 1.5
    with pytest.raises(roletalk.DataError):
        destination.request("echo", numpy.int64(5))
