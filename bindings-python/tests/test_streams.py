from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Connect, Pair, event_of, until


async def test_writing(pair: Pair) -> None:
    got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @pair.role().on_readable("upload")
    async def upload(ctx: Context) -> None:
        stream = ctx.accept("go on")
        assert stream.unit.name == "client"
        got.set_result((ctx.data, ctx.kind, await stream.read()))

    destination = await pair.destination()
    async with destination.writable("upload", {"name": "x"}, timeout=LIMIT) as stream:
        assert stream.answer == "go on"
        assert stream.unit is pair.unit
        await stream.write(b"one ")
        await stream.write(bytearray(b"two "))
        await stream.write(memoryview(b"three"))
        await stream.write(b"")
    assert await got == ({"name": "x"}, "readable", b"one two three")


async def test_reading(pair: Pair) -> None:
    @pair.role().on_writable("download")
    async def download(ctx: Context) -> None:
        async with ctx.accept() as stream:
            for n in range(10):
                await stream.write(bytes([n]) * 100_000)

    destination = await pair.destination()
    whole = b"".join([chunk async for chunk in destination.readable("download", "x")])
    assert whole == b"".join(bytes([n]) * 100_000 for n in range(10))
    stream = await destination.readable("download")
    assert await stream.read(10) == b"\0" * 10
    assert len(await stream.read()) == 999_990
    assert await stream.read() == b""


async def test_reading_by_count(pair: Pair) -> None:
    more = asyncio.Event()

    @pair.role().on_writable("download")
    async def download(ctx: Context) -> None:
        async with ctx.accept() as stream:
            await stream.write(b"0123")
            await more.wait()
            await stream.write(b"456789")

    destination = await pair.destination()
    stream = await destination.readable("download")
    assert await stream.read(0) == b""
    assert await stream.readexactly(0) == b""
    assert await stream.readexactly(2) == b"01"
    # Neither kind of reading loses what it had when it is cancelled.
    for reading in (stream.readexactly(5), stream.read()):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reading, 0.01)
    assert await stream.read(1) == b"2"
    more.set()
    assert await stream.readexactly(6) == b"345678"
    with pytest.raises(ValueError):
        await stream.readexactly(-1)
    with pytest.raises(asyncio.IncompleteReadError) as incomplete:
        await stream.readexactly(2)
    assert (incomplete.value.partial, incomplete.value.expected) == (b"9", 2)
    assert await stream.readexactly(0) == await stream.read(1) == b""


async def test_what_was_read_before_an_error_is_not_lost(pair: Pair) -> None:
    @pair.role().on_writable("download")
    async def download(ctx: Context) -> None:
        stream = ctx.accept()
        await stream.write(b"some")
        raise roletalk.RejectedError("broken")

    stream = await (await pair.destination()).readable("download")
    with pytest.raises(roletalk.StreamClosedError, match="broken"):
        await stream.read()
    assert await stream.read(100) == b"some"
    with pytest.raises(roletalk.StreamClosedError):
        await stream.read(100)


async def test_a_writer_waits_for_its_reader(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(stream_window=100_000)})
    read = asyncio.Event()
    got: list[int] = []

    @pair.role().on_readable("upload")
    async def upload(ctx: Context) -> None:
        async with ctx.accept() as stream:
            await read.wait()
            async for chunk in stream:
                got.append(len(chunk))

    destination = await pair.destination()
    stream = await destination.writable("upload")
    writing = asyncio.ensure_future(stream.write(b"x" * 3_000_000))
    await until(lambda: pair.unit.stats().stream_bytes_sent >= 100_000)
    # Messages pass meanwhile.
    with pytest.raises(roletalk.RejectedError):
        await destination.request("nothing")
    assert not writing.done()
    assert pair.unit.stats().stream_bytes_sent < 1_000_000
    read.set()
    await writing
    await stream.finish()
    assert sum(got) == 3_000_000


@pytest.mark.parametrize("kind", ["readable", "writable"])
async def test_refusing(pair: Pair, kind: str) -> None:
    async def refuse(ctx: Context) -> None:
        raise roletalk.RejectedError("no room")

    async def forget(ctx: Context) -> None:
        pass

    role = pair.role()
    register = role.on_writable if kind == "readable" else role.on_readable
    register("refuse", refuse)
    register("forget", forget)
    destination = await pair.destination()
    open_stream = getattr(destination, kind)
    for event, text in (("refuse", "no room"), ("forget", "The stream was not accepted")):
        with pytest.raises(roletalk.RejectedError, match=text):
            await open_stream(event)
    with pytest.raises(roletalk.RejectedError, match="is not handled"):
        await open_stream("unknown")
    assert pair.unit.stats().streams == 0


async def test_a_writer_that_fails_breaks_off(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    events = pair.worker.events()

    @pair.role().on_writable("download")
    async def download(ctx: Context) -> None:
        stream = ctx.accept()
        await stream.write(b"some")
        raise OSError("disk on fire")

    destination = await pair.destination()
    stream = await destination.readable("download")
    assert await stream.read(100) == b"some"
    with pytest.raises(roletalk.StreamClosedError, match="disk on fire"):
        await stream.read(100)
    assert isinstance((await event_of(events, roletalk.HandlerFailed)).error, OSError)
    assert "the handler of role/download failed" in caplog.text


async def test_leaving_with_an_exception_breaks_off(pair: Pair) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @pair.role().on_readable("upload")
    async def upload(ctx: Context) -> None:
        try:
            await ctx.accept().read()
        except roletalk.StreamClosedError as error:
            failed.set_result(str(error))

    destination = await pair.destination()
    with pytest.raises(KeyError):
        async with destination.writable("upload") as stream:
            await stream.write(b"x")
            raise KeyError("changed my mind")
    assert "changed my mind" in await asyncio.wait_for(failed, LIMIT)
    with pytest.raises(roletalk.StreamClosedError):
        await stream.write(b"x")


async def test_a_reader_that_leaves_stops_the_writer(pair: Pair) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @pair.role().on_writable("endless")
    async def endless(ctx: Context) -> None:
        stream = ctx.accept()
        try:
            while True:
                await stream.write(b"x" * 10_000)
        except roletalk.StreamClosedError as error:
            failed.set_result(str(error))

    destination = await pair.destination()
    async with destination.readable("endless") as stream:
        async for _ in stream:
            break
    assert await asyncio.wait_for(failed, LIMIT)


async def test_a_stream_that_is_dropped_breaks_off(pair: Pair) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @pair.role().on_readable("upload")
    async def upload(ctx: Context) -> None:
        try:
            await ctx.accept().read()
        except roletalk.StreamClosedError as error:
            failed.set_result(str(error))

    destination = await pair.destination()
    stream = await destination.writable("upload")
    await stream.write(b"x")
    del stream
    gc.collect()
    assert "The writable stream was dropped" in await asyncio.wait_for(failed, LIMIT)


async def test_the_connection_is_lost(pair: Pair) -> None:
    @pair.role().on_writable("endless")
    async def endless(ctx: Context) -> None:
        async with ctx.accept() as stream:
            await stream.write(b"x")
            await asyncio.Event().wait()

    destination = await pair.destination()
    stream = await destination.readable("endless")
    assert await stream.read(1) == b"x"
    reading = asyncio.ensure_future(stream.read(1))
    await pair.worker.close()
    with pytest.raises((roletalk.StreamClosedError, roletalk.ConnectionLostError)):
        await reading


async def test_wrong_use(pair: Pair) -> None:
    role = pair.role()
    role.on_request("accept", lambda ctx: ctx.accept(), inline=True)

    @role.on_readable("twice")
    async def twice(ctx: Context) -> None:
        first = ctx.accept()
        try:
            ctx.accept()
        except roletalk.StreamClosedError as error:
            first.abort(str(error))

    with pytest.raises(TypeError, match="async def"):
        role.on_readable("plain", lambda ctx: None)  # type: ignore[type-var]
    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match="not a request for a stream"):
        await destination.request("accept")
    stream = await destination.writable("twice")
    with pytest.raises(roletalk.StreamClosedError, match="answered already"):
        await stream.finish()
    with pytest.raises(TypeError):
        async with destination.writable("twice") as stream:
            await stream.write("text")  # type: ignore[arg-type]
    with pytest.raises(roletalk.NoUnitError):
        pair.client.destination("nobody").readable("x")


async def test_abandoned_while_opening(pair: Pair) -> None:
    @pair.role().on_readable("slow")
    async def slow(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(_enter(destination.writable("slow")), 0.02)
    with pytest.raises(roletalk.TimeoutError):
        await destination.writable("slow", timeout=0.02)
    stats = pair.unit.stats()
    assert (stats.streams, stats.waiting) == (0, 0)


async def _enter(stream: Any) -> None:
    await stream


async def test_many_streams_at_once(pair: Pair) -> None:
    @pair.role().on_writable("size")
    async def size(ctx: Context) -> None:
        async with ctx.accept() as stream:
            await stream.write(b"x" * ctx.data)

    destination = await pair.destination()

    async def read(size: int) -> int:
        return len(await destination.readable("size", size).read())

    sizes = [n * 10_000 for n in range(30)]
    assert await asyncio.gather(*(read(size) for size in sizes)) == sizes
