from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import fields
from typing import Any

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Connect, Pair, event_of, patient, until


@pytest.mark.parametrize("age", [-1, float("nan"), float("inf"), 1e300, "1"])
def test_an_age_that_is_none_is_refused(age: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"Limits\.connection_age must be"):
        roletalk.Peer(limits=roletalk.Limits(connection_age=age))


def test_no_age_can_be_said() -> None:
    roletalk.Peer(limits=roletalk.Limits(connection_age=0))
    with pytest.raises(ValueError, match=r"Limits\.request_timeout must be"):
        roletalk.Peer(limits=roletalk.Limits(request_timeout=0))


@pytest.mark.parametrize("name", [field.name for field in fields(roletalk.Limits)])
def test_every_limit_is_known_to_the_engine(name: str) -> None:
    roletalk.Peer(limits=roletalk.Limits(**{name: 1}))


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(ValueError):
        roletalk.Peer(limits=roletalk.Limits(request_timeout=-1))
    with pytest.raises(ValueError):
        roletalk.Peer(reconnect_cap=0)
    with pytest.raises(ValueError):
        roletalk.Peer(threads=0)


async def test_too_many_running_handlers(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_handlers=2)})
    go = asyncio.Event()
    events = pair.worker.events()

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> None:
        await go.wait()

    destination = await pair.destination()
    futures = [destination.request("wait") for _ in range(4)]
    # Two are handled, two came with them and are too many.
    outcomes = asyncio.gather(*futures[2:], return_exceptions=True)
    refused = await asyncio.wait_for(outcomes, LIMIT)
    assert [type(error) for error in refused] == [roletalk.RejectedError] * 2
    assert (await event_of(events, roletalk.SlowConsumer)).dropped == 1
    # Nothing is read for a moment.
    late = destination.request("wait")
    go.set()
    await asyncio.gather(*futures[:2], late)


async def test_the_default_timeout(connect: Connect) -> None:
    pair = await connect(client={"limits": roletalk.Limits(request_timeout=0.02)})

    @pair.role().on_request("never")
    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    with pytest.raises(roletalk.TimeoutError):
        await destination.request("never")


async def test_a_peer_that_sends_and_never_reads(connect: Connect) -> None:
    limits = roletalk.Limits(owed_per_connection=10_000, queue_per_connection=10_000)
    pair = await connect(worker={"limits": limits})
    pair.role()
    client = patient()
    unit = await client.connect(pair.listener.url)
    destination = client.destination("role")
    await destination.wait_ready(LIMIT)
    # The client's loop is this one, so that it does read; the worker must get through all the same.
    futures = [destination.request("x" * 500, to=unit) for _ in range(2000)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {roletalk.RejectedError}
    await until(lambda: pair.worker.stats().queued == 0)
    await client.close()


def running_bytes(pair: Pair) -> int:
    """What the worker's handlers hold for the client."""
    (counters,) = pair.worker.stats().units.values()
    return counters.running_bytes


async def test_what_handlers_hold_is_bounded(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_bytes=100_000)})
    go = asyncio.Event()
    held: list[int] = []

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> int:
        held.append(len(ctx.data))
        await go.wait()
        held.pop()
        return len(ctx.data)

    destination = await pair.destination()
    flood = [destination.request("wait", bytes(60_000)) for _ in range(50)]
    # The others wait for the first ones. As none ends, those that have come are rejected after a second.
    with pytest.raises(roletalk.RejectedError):
        await asyncio.wait_for(flood[-1], LIMIT)
    # Two, unless more came at once: one read has at most 256 KiB, and the guard reads 1 MiB while the
    # loop is slow.
    begun = len(held)
    assert 2 <= begun < 40
    outcomes = asyncio.gather(*flood[begun:], return_exceptions=True)
    refused = await asyncio.wait_for(outcomes, LIMIT)
    assert {type(error) for error in refused} == {roletalk.RejectedError}
    assert len(held) == begun and 60_000 * begun < running_bytes(pair) < 60_500 * begun
    go.set()
    assert await asyncio.gather(*flood[:begun]) == [60_000] * begun
    assert running_bytes(pair) == 0
    assert await destination.request("wait", bytes(60_000)) == 60_000


async def test_reading_goes_on_when_handlers_let_go(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_bytes=100_000)})

    @pair.role().on_request("work")
    async def work(ctx: Context) -> int:
        # Turns of the loop, in which the next ones would be read; fewer than the quarters of a second for
        # which the others wait without one that ends, however long a turn takes.
        for _ in range(2):
            await asyncio.sleep(0)
        most.append(running_bytes(pair))
        return len(ctx.data)

    most: list[int] = []
    destination = await pair.destination()
    flood = [destination.request("work", bytes(90_000)) for _ in range(40)]
    assert await asyncio.gather(*flood) == [90_000] * 40
    # Of the 3.6 MB, one read has at most 256 KiB, and the guard reads 1 MiB while the loop is slow.
    assert 90_000 < max(most) < 2_000_000


async def test_handlers_that_take_their_time_lose_nothing(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_handlers=1)})

    @pair.role().on_request("work")
    async def work(ctx: Context) -> Any:
        # Together for longer than the others would wait, were it not for those that end.
        await asyncio.sleep(0.2)
        return ctx.data

    destination = await pair.destination()
    answers = [destination.request("work", n, timeout=LIMIT) for n in range(7)]
    assert await asyncio.gather(*answers) == list(range(7))


@pytest.mark.parametrize("mode", ["task", "inline", "pool"])
async def test_failed_handlers_hold_nothing(connect: Connect, mode: str) -> None:
    pair = await connect()
    role = pair.role()

    def fail(ctx: Context) -> None:
        raise roletalk.RejectedError("no")

    async def fail_later(ctx: Context) -> None:
        fail(ctx)

    role.on_request("fail", fail_later if mode == "task" else fail, inline=mode == "inline")
    role.on_message("fail", fail_later if mode == "task" else fail, inline=mode == "inline")
    destination = await pair.destination()
    await destination.send("fail", bytes(1000))
    await destination.send("unknown", bytes(1000))
    for event in ("fail", "unknown"):
        with pytest.raises(roletalk.RejectedError):
            await destination.request(event, bytes(1000))
    await until(lambda: running_bytes(pair) == 0)


async def test_handlers_of_streams_hold_what_opened_them(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_bytes=1000)})
    done = asyncio.Event()

    @pair.role().on_readable("take")
    async def take(ctx: Context) -> None:
        stream = ctx.accept()
        await stream.read()
        done.set()

    @pair.role().on_writable("refuse")
    async def refuse(ctx: Context) -> None:
        raise roletalk.RejectedError("no")

    destination = await pair.destination()
    writable = await destination.writable("take", bytes(2000))
    assert running_bytes(pair) > 2000
    with pytest.raises(roletalk.RejectedError, match="Too many"):
        await destination.writable("take", bytes(2000))
    await writable.finish()
    await done.wait()
    await until(lambda: running_bytes(pair) == 0)
    with pytest.raises(roletalk.RejectedError, match="no"):
        await destination.readable("refuse", bytes(500))
    assert running_bytes(pair) == 0


async def test_cancelled_handlers_hold_nothing(connect: Connect) -> None:
    pair = await connect()
    tasks: list[asyncio.Task[Any]] = []

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await asyncio.Event().wait()

    destination = await pair.destination()
    futures = [destination.request("wait", bytes(1000)) for _ in range(10)]
    await until(lambda: len(tasks) == 10)
    assert running_bytes(pair) > 10_000
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [str(error) for error in outcomes] == ["The handler was cancelled"] * 10
    assert running_bytes(pair) == 0


async def test_handlers_that_never_began_hold_nothing(connect: Connect) -> None:
    pair = await connect()
    role = pair.role()

    @role.on_request("wait")
    async def wait(ctx: Context) -> None:
        await asyncio.Event().wait()

    def cancel(ctx: Context) -> None:
        """Called when the tasks of what came before were made, and before they run."""
        for task in asyncio.all_tasks():
            if task.get_name() == "roletalk handler":
                task.cancel()

    role.on_message("cancel", cancel, inline=True)
    destination = await pair.destination()
    future = destination.request("wait", bytes(1000))
    await destination.send("cancel")
    with pytest.raises(roletalk.RejectedError, match="The handler was cancelled"):
        await asyncio.wait_for(future, LIMIT)
    assert running_bytes(pair) == 0


async def test_what_has_come_is_handled_before_more_is_read(pair: Pair) -> None:
    most = last = 0

    @pair.role().on_message("count")
    async def count(ctx: Context) -> None:
        nonlocal most, last
        last = int(ctx.data.split()[0])
        if last % 20 == 0:
            (counters,) = pair.worker.stats().units.values()
            most = max(most, counters.running)

    destination = await pair.destination()
    for n in range(1000):
        await destination.send("count", f"{n} ".ljust(5000))
    await until(lambda: last == 999)
    # Of the 5 MB, one read has at most 256 KiB, and the guard reads 1 MiB and one more while the loop
    # is slow.
    assert 0 < most < 600


class Listening:
    """A listening socket whose next calls of ``accept`` fail so."""

    def __init__(self, errors: tuple[int, ...]) -> None:
        self.errors = [OSError(number, os.strerror(number)) for number in errors]
        self.socket = socket.socket()

    def accept(self) -> Any:
        if not self.errors:
            raise BlockingIOError
        raise self.errors.pop(0)

    def fileno(self) -> int:
        return self.socket.fileno()


@pytest.mark.parametrize(
    ("errors", "reported"),
    [
        ((errno.ECONNRESET, errno.EINVAL, errno.EPERM, errno.EBADF), 0),
        ((errno.ECONNRESET, errno.EMFILE, errno.EMFILE), 1),
        ((errno.ENOBUFS,), 1),
    ],
)
async def test_accepting_goes_on_after_errors_and_only_a_shortage_is_told(
    errors: tuple[int, ...], reported: int
) -> None:
    listening: Any = Listening(errors)
    async with roletalk.Peer() as peer:
        await peer.listen("127.0.0.1", 0)
        events, host = peer.events(), peer._host
        host._listening[listening] = None
        host._accept(listening, lambda sock, address: None)
        assert len(listening.errors) == len(errors) - 1, "it is not tried again at once"
        # The socket, which is not connected, is readable for the loop.
        await until(lambda: not listening.errors)
        del host._listening[listening]
        host.loop.remove_reader(listening.fileno())
    listening.socket.close()
    told = [event async for event in events if isinstance(event, roletalk.AcceptFailed)]
    assert len(told) == reported
