"""Who gives up is heard at the other end: the task of the handler is cancelled, and what was asked for it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, Next

from .conftest import LIMIT, Chain, Connect, Pair, event_of, is_clean, patient, until

MANY = 100


class Handlers:
    """Handlers that wait, and what has become of them."""

    def __init__(self) -> None:
        self.begun: list[Context] = []
        self.ended: list[Context] = []
        self.errors: list[BaseException] = []

    async def __call__(self, ctx: Context) -> None:
        self.begun.append(ctx)
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.append(ctx)

    async def are_begun(self, count: int) -> None:
        await until(lambda: len(self.begun) == count)

    async def are_ended(self, count: int, reason: str) -> None:
        await until(lambda: len(self.ended) == count)
        assert [ctx.cancel_reason for ctx in self.ended] == [reason] * count
        assert all(ctx.cancelled for ctx in self.ended)
        assert all(type(error) is asyncio.CancelledError for error in self.errors)


@contextmanager
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither the package nor asyncio says anything."""
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: told.append(context))
    with caplog.at_level(logging.INFO, "roletalk"):
        yield
    gc.collect()
    assert told == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_all_that_are_abandoned_are_cancelled(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    destination = await pair.destination()
    with silence(caplog):
        # At once; and when they have waited for long, of whose futures the engine knows otherwise.
        for turn in (1, 2):
            futures = [destination.request("wait") for _ in range(MANY)]
            await handlers.are_begun(turn * MANY)
            if turn == 2:
                await until(lambda: pair.client._engine.sizes()["watched"] == MANY)
            for future in futures:
                assert future.cancel()
            await handlers.are_ended(turn * MANY, "requester")
        await until(lambda: is_clean(pair.worker, pair.client))
    assert pair.unit.stats().cancels_sent == 2 * MANY
    [unit] = pair.worker.units
    assert unit.stats().cancels_received == 2 * MANY


WAYS: dict[str, Callable[[roletalk.Destination], Any]] = {
    "request": lambda destination: destination.request("wait"),
    "call": lambda destination: destination.call("wait", timeout=LIMIT),
    "survey": lambda destination: destination.survey("wait").all(),
    "readable": lambda destination: destination.readable("wait")._open(),
    "writable": lambda destination: destination.writable("wait")._open(),
}


@pytest.mark.parametrize("way", WAYS)
async def test_cancelling_the_task_that_waits(
    pair: Pair, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    role = pair.role()
    role.on_request("wait", handlers)
    role.on_readable("wait", handlers)
    role.on_writable("wait", handlers)
    destination = await pair.destination()

    async def ask() -> None:
        await WAYS[way](destination)

    with silence(caplog):
        tasks = [asyncio.ensure_future(ask()) for _ in range(10)]
        await handlers.are_begun(10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ask(), 0.05)
        await handlers.are_ended(11, "requester")
        await until(lambda: is_clean(pair.worker, pair.client))


async def test_a_survey_that_is_left(pair: Pair) -> None:
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    destination = await pair.destination()
    async with destination.survey("wait"):
        await handlers.are_begun(1)
    await handlers.are_ended(1, "requester")


async def test_a_request_that_waits_for_room(connect: Connect) -> None:
    pair = await connect(client={"limits": roletalk.Limits(queue_per_connection=1)})
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    destination = await pair.destination()
    first = destination.request("wait")
    second = destination.request("wait", bytes(1000))
    assert pair.client._engine.sizes()["parked"] == 1
    await handlers.are_begun(2)
    first.cancel()
    second.cancel()
    await handlers.are_ended(2, "requester")
    third = destination.request("wait")
    fourth = destination.request("wait", bytes(1000))
    fourth.cancel()
    await handlers.are_begun(3)
    third.cancel()
    await handlers.are_ended(3, "requester")
    await until(lambda: is_clean(pair.worker, pair.client))


# Units that are lost.


@pytest.mark.parametrize("extended", [True, False])
async def test_all_of_a_peer_that_leaves_are_cancelled(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, extended: bool
) -> None:
    if not extended:
        make = roletalk._engine.Engine
        plain = lambda **options: make(extensions=False, **options)  # noqa: E731
        monkeypatch.setattr(roletalk._engine, "Engine", plain)
    pair = await connect()
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    destination = await pair.destination()
    futures = [destination.request("wait") for _ in range(MANY)]
    await handlers.are_begun(MANY)
    await pair.client.close()
    await handlers.are_ended(MANY, "unit_lost")
    await asyncio.wait(futures)
    await until(lambda: is_clean(pair.worker))


PROGRAM = """
import asyncio, sys, roletalk

async def main():
    async with roletalk.Peer("client") as peer:
        await peer.connect(sys.argv[1])
        role = peer.destination("role")
        await role.wait_ready()
        await asyncio.gather(*(role.request("wait") for _ in range(100)))

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="no signals")
async def test_all_of_a_process_that_is_killed_are_cancelled() -> None:
    handlers = Handlers()
    async with patient(name="worker") as worker:
        worker.role("role").on_request("wait", handlers)
        url = (await worker.listen("127.0.0.1")).url
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, url])
        try:
            await handlers.are_begun(MANY)
            process.send_signal(signal.SIGKILL)
            await handlers.are_ended(MANY, "unit_lost")
            await until(lambda: is_clean(worker))
        finally:
            process.kill()
            process.wait()


async def test_other_units_are_left_alone(pair: Pair) -> None:
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    destination = await pair.destination()
    async with patient(name="other") as other:
        await other.connect(pair.listener.url)
        its = other.destination("role")
        await its.wait_ready(LIMIT)
        mine, theirs = destination.request("wait", "mine"), its.request("wait", "theirs")
        await handlers.are_begun(2)
    await handlers.are_ended(1, "unit_lost")
    assert handlers.ended[0].data == "theirs" and not mine.done()
    with pytest.raises(roletalk.ClosedError):
        await theirs
    mine.cancel()


# What a handler makes of it.


@pytest.mark.parametrize("layered", [False, True], ids=["plain", "middleware"])
async def test_a_detached_handler_goes_on(connect: Connect, layered: bool) -> None:
    pair = await connect()
    go, ended = asyncio.Event(), []
    handlers = Handlers()

    async def work(ctx: Context) -> str:
        handlers.begun.append(ctx)
        await go.wait()
        ended.append((ctx.data, ctx.cancelled, ctx.cancel_reason))
        return "an answer that nobody waits for"

    role = pair.role()
    role.on_request("work", detached=True)(work)
    role.on_readable("work", work, detached=True)
    role.on_writable("work", detached=True)(work)
    if layered:

        @role.middleware
        async def layer(ctx: Context, call_next: Next) -> Any:
            return await call_next(ctx)

    destination = await pair.destination()
    requests = [destination.request("work", "requester"), destination.request("work", "unit_lost")]
    with pytest.raises(roletalk.TimeoutError):
        await destination.request("work", "deadline", timeout=0.05)
    streams = [
        asyncio.ensure_future(destination.readable("work", "readable")._open()),
        asyncio.ensure_future(destination.writable("work", "writable")._open()),
    ]
    await handlers.are_begun(5)
    for each in (requests[0], *streams):
        each.cancel()
    await asyncio.wait(streams)
    # Each of them is known to the worker by now.
    [unit] = pair.worker.units
    await until(lambda: unit.stats().cancels_received == 4)
    await pair.client.close()
    await until(lambda: not pair.worker.units)
    go.set()
    await until(lambda: len(ended) == 5)
    names = ["deadline", "readable", "requester", "unit_lost", "writable"]
    assert sorted(ended) == [(name, False, None) for name in names]
    await until(lambda: is_clean(pair.worker))
    assert isinstance(requests[1].exception(), roletalk.ClosedError)


async def test_what_a_detached_handler_asks_for_goes_on(chain: Chain) -> None:
    seen: list[Any] = []
    begun, go = asyncio.Event(), asyncio.Event()

    @chain.last.on_request("store")
    async def store(ctx: Context) -> None:
        seen.append((ctx.remaining, ctx.traceparent))

    @chain.first.on_request("store", detached=True)
    async def first(ctx: Context) -> None:
        begun.set()
        await go.wait()
        await chain.to_end.request("store")

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    future = chain.to_middle.request("store", timeout=LIMIT, traceparent=trace)
    await begun.wait()
    future.cancel()
    [unit] = chain.middle._engine.destination_units("end")
    await until(lambda: sum(u.stats().cancels_received for u in chain.middle.units) == 1)
    go.set()
    await until(lambda: len(seen) == 1)
    assert seen == [(None, trace)] and unit.is_open


async def test_messages_are_never_cancelled(pair: Pair) -> None:
    handlers, go = Handlers(), asyncio.Event()
    ended: list[bool] = []

    @pair.role().on_message("tell")
    async def tell(ctx: Context) -> None:
        handlers.begun.append(ctx)
        await go.wait()
        ended.append(ctx.cancelled)

    destination = await pair.destination()
    await destination.broadcast("tell")
    await destination.send("tell", headers={"a": "b"})
    await handlers.are_begun(2)
    await pair.client.close()
    await until(lambda: not pair.worker.units)
    go.set()
    await until(lambda: ended == [False, False])


async def test_streams_that_were_accepted_are_not_cancelled(pair: Pair) -> None:
    ended: list[str] = []
    accepted = asyncio.Event()

    @pair.role().on_readable("up")
    async def up(ctx: Context) -> None:
        async with ctx.accept() as stream:
            accepted.set()
            try:
                await stream.read()
            except BaseException as error:
                ended.append(type(error).__name__)
                assert not ctx.cancelled
                raise

    destination = await pair.destination()
    stream = await destination.writable("up", timeout=LIMIT)
    await accepted.wait()
    stream.abort("no more")
    await until(lambda: ended == ["StreamClosedError"])
    accepted.clear()
    stream = await destination.writable("up")
    await accepted.wait()
    await pair.client.close()
    await until(lambda: len(ended) == 2)
    assert ended[1] in ("StreamClosedError", "ConnectionLostError")


async def test_plain_functions_run_to_their_end(pair: Pair) -> None:
    begun = threading.Event()
    ended: list[Any] = []

    def work(ctx: Context) -> str:
        assert not ctx.cancelled and ctx.cancel_reason is None
        begun.set()
        until_cancelled = threading.Event()
        while not ctx.cancelled:
            until_cancelled.wait(0.001)
        ended.append(ctx.cancel_reason)
        return "late"

    pair.role().on_request("work", work)
    destination = await pair.destination()
    future = destination.request("work")
    await until(begun.is_set)
    future.cancel()
    await until(lambda: ended == ["requester"])
    await until(lambda: is_clean(pair.worker, pair.client))
    # The peer's threads and its answers are as before.
    pair.role().on_request("echo", lambda ctx: ctx.data)
    assert await destination.request("echo", 1) == 1


async def test_middleware_is_cancelled_with_a_function_behind_it(pair: Pair) -> None:
    seen: list[str] = []
    begun, end = threading.Event(), threading.Event()

    @pair.role().middleware
    async def layer(ctx: Context, call_next: Next) -> Any:
        try:
            return await call_next(ctx)
        except asyncio.CancelledError:
            seen.append(f"middleware: {ctx.cancelled}")
            raise

    def work(ctx: Context) -> None:
        begun.set()
        assert end.wait(LIMIT)
        seen.append(f"function: {ctx.cancelled}")

    pair.role().on_request("work", work)
    destination = await pair.destination()
    future = destination.request("work")
    await until(begun.is_set)
    future.cancel()
    await until(lambda: seen == ["middleware: True"])
    end.set()
    await until(lambda: len(seen) == 2)
    assert seen[1] == "function: True"
    await until(lambda: is_clean(pair.worker, pair.client))


async def test_a_handler_cleans_up(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    @pair.role().on_request("work")
    async def work(ctx: Context) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            if sys.version_info >= (3, 11):
                seen.append(str(error))
            await asyncio.sleep(0.01)
            seen.append("cleaned up")
            if ctx.data == "raise":
                raise
            if ctx.data == "fail":
                raise ValueError("while it was cleaning up") from None
        return "an answer"

    destination = await pair.destination()
    with silence(caplog):
        for n, data in enumerate(["raise", "fail", "answer"]):
            begun.clear()
            future = destination.request("work", data)
            await begun.wait()
            future.cancel()
            await until(lambda n=n: seen.count("cleaned up") == n + 1)  # type: ignore[misc]
        await until(lambda: is_clean(pair.worker, pair.client))
    if sys.version_info >= (3, 11):
        assert seen.count("The requester has given up") == 3


async def test_failing_because_of_it_is_no_event(pair: Pair) -> None:
    events, begun = pair.worker.events(), asyncio.Event()

    @pair.role().on_readable("up")
    async def up(ctx: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while it was cleaning up") from None

    destination = await pair.destination()
    opening = asyncio.ensure_future(destination.writable("up")._open())
    await begun.wait()
    opening.cancel()
    await until(lambda: is_clean(pair.worker, pair.client))
    await pair.client.close()
    seen = []
    async for event in events:
        seen.append(event)
        if isinstance(event, roletalk.UnitClosed):
            break
    assert not any(isinstance(event, roletalk.HandlerFailed) for event in seen)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no asyncio.timeout")
async def test_timeouts_of_a_handler_are_its_own(pair: Pair) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    @pair.role().on_request("own")
    async def own(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            assert not ctx.cancelled
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0
            return "its own"
        raise AssertionError

    @pair.role().on_request("ours")
    async def ours(ctx: Context) -> None:
        begun.set()
        try:
            async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(LIMIT))
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    destination = await pair.destination()
    assert await destination.request("own") == "its own"
    future = destination.request("ours")
    await begun.wait()
    future.cancel()
    await until(lambda: seen == ["CancelledError"])
    await until(lambda: is_clean(pair.worker, pair.client))


async def test_a_handler_that_has_not_begun_never_does(connect: Connect) -> None:
    """A request and its cancellation come with one read."""
    pair = await connect()
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    pair.role().on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()
    loop = asyncio.get_running_loop()
    futures = [destination.request("wait") for _ in range(MANY)]
    for future in futures:
        future.cancel()
    # Both go out with the next write: the engine hears of it before.
    pair.client._engine.unit_stats(pair.unit._number)
    assert await destination.request("echo", 1) == 1
    await until(lambda: is_clean(pair.worker, pair.client))
    assert len(handlers.begun) == len(handlers.ended)
    assert all(ctx.cancel_reason == "requester" for ctx in handlers.ended)
    assert loop.is_running()


async def test_closing_the_own_peer_cancels_once(connect: Connect) -> None:
    pair = await connect()
    seen: list[str] = []
    begun = asyncio.Event()

    @pair.role().on_request("work")
    async def work(ctx: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            seen.append("cleaned up")
            raise

    destination = await pair.destination()
    future = destination.request("work")
    await begun.wait()
    await pair.worker.close()
    assert seen == ["cleaned up"]
    with pytest.raises(roletalk.ConnectionLostError):
        await future


async def test_without_the_extension_nobody_is_told(plain: str, connect: Connect) -> None:
    pair = await connect()
    handlers = Handlers()
    pair.role().on_request("wait", handlers)
    pair.role().on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()
    future = destination.request("wait", timeout=LIMIT)
    await handlers.are_begun(1)
    future.cancel()
    await until(lambda: pair.client._engine.sizes()["waiting"] == 0)
    assert await destination.request("echo", 1) == 1
    assert handlers.ended == [] and pair.unit.stats().cancels_sent == 0
    await pair.client.close()
    await handlers.are_ended(1, "unit_lost")


# What is inherited.


async def test_what_a_handler_waits_for_is_cancelled(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    last, seen = Handlers(), []
    chain.last.on_request("wait", last)

    @chain.first.on_request("wait")
    async def first(ctx: Context) -> None:
        try:
            await chain.to_end.request("wait")
        except BaseException as error:
            seen.append(error)
            raise

    with silence(caplog):
        futures = [chain.to_middle.request("wait") for _ in range(MANY)]
        await last.are_begun(MANY)
        for future in futures:
            future.cancel()
        await last.are_ended(MANY, "requester")
        assert [type(error) for error in seen] == [asyncio.CancelledError] * MANY
        await until(lambda: is_clean(*chain.peers))


async def test_the_end_of_the_first_ends_the_last(chain: Chain) -> None:
    last = Handlers()
    chain.last.on_request("wait", last)

    @chain.first.on_request("wait")
    async def first(ctx: Context) -> None:
        await chain.to_end.request("wait")

    futures = [chain.to_middle.request("wait") for _ in range(MANY)]
    await last.are_begun(MANY)
    await chain.client.close()
    await last.are_ended(MANY, "requester")
    await until(lambda: is_clean(*chain.peers))
    await asyncio.wait(futures)


@pytest.mark.parametrize("inherit", [True, False])
async def test_requests_of_tasks_that_a_handler_has_started(
    chain: Chain, inherit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    last = Handlers()
    errors: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    chain.last.on_request("wait", last)
    chain.last.on_writable("wait", last)

    async def child(way: Callable[[], Any]) -> None:
        try:
            await way()
        except BaseException as error:
            errors.append(error)
            raise

    async def grandchild() -> None:
        await asyncio.create_task(
            child(lambda: chain.to_end.call("wait", inherit=inherit)), name="grandchild"
        )

    @chain.first.on_request("wait")
    async def first(ctx: Context) -> None:
        to_end = chain.to_end
        tasks.append(asyncio.create_task(child(lambda: to_end.request("wait", inherit=inherit))))
        stream = to_end.readable("wait", inherit=inherit)
        tasks.append(asyncio.create_task(child(stream._open)))
        tasks.append(asyncio.create_task(grandchild()))
        await asyncio.Event().wait()

    with silence(caplog):
        future = chain.to_middle.request("wait")
        await last.are_begun(3)
        future.cancel()
        await until(lambda: chain.middle._engine.sizes()["running"] == 0)
        if inherit:
            await last.are_ended(3, "requester")
            await asyncio.wait(tasks)
            assert [type(error) for error in errors] == [roletalk.CancelledError] * 3
            assert all(task.cancelled() for task in tasks)
            assert str(errors[0]) == "Given up with its handler: The requester has given up"
            assert errors[0].hint is not None and "inherit=False" in errors[0].hint
            assert isinstance(errors[0], roletalk.Error) and errors[0].kind == "CANCELLED"
        else:
            assert last.ended == [] and errors == []
            for task in tasks:
                task.cancel()
            await last.are_ended(3, "requester")
        await until(lambda: is_clean(*chain.peers))
        tasks.clear()


async def test_a_survey_of_a_task_is_told(chain: Chain) -> None:
    last, answers = Handlers(), []
    chain.last.on_request("wait", last)

    async def child() -> None:
        answers.extend(await chain.to_end.survey("wait").all())

    tasks: list[asyncio.Task[None]] = []

    @chain.first.on_request("wait")
    async def first(ctx: Context) -> None:
        tasks.append(asyncio.create_task(child()))
        await asyncio.Event().wait()

    future = chain.to_middle.request("wait")
    await last.are_begun(1)
    future.cancel()
    await last.are_ended(1, "requester")
    await tasks[0]
    [answer] = answers
    assert isinstance(answer.error, roletalk.CancelledError)


async def test_requests_that_nobody_awaits_are_given_up(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    last = Handlers()
    chain.last.on_request("wait", last)

    @chain.first.on_request("wait")
    async def first(ctx: Context) -> None:
        for _ in range(MANY):
            chain.to_end.request("wait")
        await asyncio.Event().wait()

    with silence(caplog):
        future = chain.to_middle.request("wait")
        await last.are_begun(MANY)
        future.cancel()
        await last.are_ended(MANY, "requester")
        await until(lambda: is_clean(*chain.peers))


async def test_those_that_were_answered_are_forgotten(chain: Chain) -> None:
    """A handler that asks for much keeps little of it."""
    chain.last.on_request("echo", lambda ctx: ctx.data, inline=True)
    last, asked = Handlers(), []
    chain.last.on_request("wait", last)
    calls: list[Any] = []

    @chain.first.on_request("work")
    async def first(ctx: Context) -> None:
        calls.append(roletalk._engine.current_call())
        waiting = [chain.to_end.request("wait") for _ in range(20)]
        for n in range(500):
            asked.append(await chain.to_end.request("echo", n))
        await asyncio.wait(waiting)

    future = chain.to_middle.request("work")
    await until(lambda: len(asked) == 500)
    assert len(gc.get_referents(calls[0])) < 100
    future.cancel()
    await last.are_ended(20, "requester")
    await until(lambda: is_clean(*chain.peers))


async def test_a_task_that_waits_for_room(connect: Connect) -> None:
    end = patient(name="end", friendly=False)
    options = {"friendly": False, "limits": roletalk.Limits(queue_per_connection=1)}
    pair = await connect(worker=options, client={"friendly": False})
    try:
        last, errors = Handlers(), []
        end.role("end").on_request("wait", last)
        await pair.worker.connect((await end.listen("127.0.0.1")).url)
        to_end = pair.worker.destination("end")
        await to_end.wait_ready(LIMIT)

        async def child() -> None:
            try:
                # There is room when the loop has come by.
                to_end.request("wait")
                await to_end.request("wait", bytes(100))
            except BaseException as error:
                errors.append(error)
                raise

        @pair.role().on_request("work")
        async def work(ctx: Context) -> None:
            task = asyncio.create_task(child())
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.wait([task])

        destination = await pair.destination()
        future = destination.request("work")
        await last.are_begun(2)
        future.cancel()
        await last.are_ended(2, "requester")
        await until(lambda: len(errors) == 1)
        assert isinstance(errors[0], asyncio.CancelledError)
        await until(lambda: is_clean(pair.worker, pair.client, end))
    finally:
        await end.close()


async def test_what_is_begun_behind_it_is_cancelled_at_once(chain: Chain) -> None:
    last, seen, begun = Handlers(), [], asyncio.Event()
    chain.last.on_request("wait", last)
    chain.last.on_request("undo", lambda ctx: "undone", inline=True)

    @chain.first.on_request("work")
    async def work(ctx: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(roletalk.CancelledError):
                await chain.to_end.request("wait")
            with pytest.raises(roletalk.CancelledError):
                await chain.to_end.readable("wait")
            seen.append(await chain.to_end.request("undo", inherit=False))
            raise

    future = chain.to_middle.request("work")
    await begun.wait()
    future.cancel()
    await until(lambda: seen == ["undone"])
    assert last.begun == []


async def test_background_work_goes_on_when_its_handler_has_answered(chain: Chain) -> None:
    tasks: list[asyncio.Task[Any]] = []
    last, go = Handlers(), asyncio.Event()

    @chain.last.on_request("work")
    async def work(ctx: Context) -> str:
        last.begun.append(ctx)
        await go.wait()
        return "done"

    async def background() -> Any:
        return await chain.to_end.request("work")

    @chain.first.on_request("begin")
    async def begin(ctx: Context) -> str:
        tasks.append(asyncio.create_task(background()))
        await last.are_begun(1)
        return "begun"

    assert await chain.to_middle.request("begin") == "begun"
    await chain.client.close()
    await until(lambda: len(chain.middle.units) == 1)
    go.set()
    assert await tasks[0] == "done"


async def test_peers_of_two_loops() -> None:
    """A handler in one loop asks with a peer of another."""
    last, errors = Handlers(), []
    ready, over = threading.Event(), threading.Event()
    shared: dict[str, Any] = {}

    async def other_loop(url: str) -> None:
        async with patient(name="other") as other:
            await other.connect(url)
            shared["loop"] = asyncio.get_running_loop()
            shared["destination"] = other.destination("role")
            await shared["destination"].wait_ready(LIMIT)
            ready.set()
            await asyncio.get_running_loop().run_in_executor(None, over.wait)

    async def ask() -> None:
        try:
            await shared["destination"].request("last")
        except BaseException as error:
            errors.append(error)
            raise

    async def first(ctx: Context) -> None:
        asking = asyncio.run_coroutine_threadsafe(ask(), shared["loop"])
        try:
            await asyncio.Event().wait()
        finally:
            await until(asking.done)

    async with patient(name="worker") as worker, patient(name="client") as client:
        role = worker.role("role")
        role.on_request("first", first)
        role.on_request("last", last)
        url = (await worker.listen("127.0.0.1")).url
        thread = threading.Thread(target=lambda: asyncio.run(other_loop(url)))
        thread.start()
        try:
            await client.connect(url)
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            await until(ready.is_set)
            future = destination.request("first")
            await last.are_begun(1)
            future.cancel()
            await last.are_ended(1, "requester")
            await until(lambda: bool(errors))
            assert type(errors[0]) is roletalk.CancelledError
        finally:
            over.set()
            await until(lambda: not thread.is_alive())


def test_blocking_peers() -> None:
    from roletalk import sync

    begun, gone = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    async def last(ctx: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    with sync.Peer("worker") as worker, sync.Peer("client") as client:
        worker.role("end").on_request("wait", last)

        def middle(ctx: Context) -> None:
            try:
                to_end.request("wait")
            except roletalk.Error as error:
                errors.append(error)
                raise
            finally:
                gone.set()

        client.role("middle").on_request("ask", middle)
        worker.connect(client.listen("127.0.0.1").url)
        to_end = client.destination("end")
        to_end.wait_ready(LIMIT)
        to_middle = worker.destination("middle")
        to_middle.wait_ready(LIMIT)
        with pytest.raises(roletalk.TimeoutError):
            to_middle.request("ask", timeout=0.2)
        assert gone.wait(LIMIT)
        assert begun.is_set()
    assert [type(error) for error in errors] in (
        [roletalk.TimeoutError],
        [roletalk.CancelledError],
    )


async def test_nothing_is_left_of_many(pair: Pair) -> None:
    """10,000 requests that were given up, in every way."""
    begun = 0

    async def wait(ctx: Context) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    role = pair.role()
    role.on_request("wait", wait)
    role.on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()

    def kept() -> int:
        gc.collect()
        kinds = (roletalk._engine.Call, roletalk.Context)
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    assert await destination.request("echo", 1) == 1
    for n in range(10):
        # Before they are sent, and when all are running.
        futures = [destination.request("wait", headers={"n": str(n)}) for _ in range(500)]
        for future in futures:
            future.cancel()
        before = begun
        futures = [destination.request("wait", timeout=LIMIT) for _ in range(500)]
        await until(lambda before=before: begun >= before + 500)  # type: ignore[misc]
        for future in futures:
            future.cancel()
        del futures, future
        await until(lambda: is_clean(pair.worker, pair.client))
    assert pair.unit.stats().cancels_sent == 10_000
    # Frames of tracebacks and of the loop may keep the last ones for a moment.
    await until(lambda: kept() == 0)
    events = pair.worker.events()
    await pair.client.close()
    await event_of(events, roletalk.UnitClosed)
