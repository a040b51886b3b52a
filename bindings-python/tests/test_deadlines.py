"""How long a requester waits is known where its request is handled, and to all that is done for it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, Next

from .conftest import LIMIT, Chain, Connect, Pair, is_clean, until

SHORT = 0.05
"""Seconds: what has this timeout is to miss it."""


def left(ctx: Context) -> float:
    assert ctx.remaining is not None
    return ctx.remaining


async def forever(_: Any = None) -> None:
    await asyncio.Event().wait()


async def test_a_handler_sees_how_long_its_requester_waits(pair: Pair) -> None:
    seen: list[tuple[Any, Any]] = []
    loop = asyncio.get_running_loop()

    @pair.role().on_request("ask")
    async def ask(ctx: Context) -> None:
        seen.append((ctx.deadline, ctx.remaining))
        assert (ctx.deadline is None) == (ctx.remaining is None)

    destination = await pair.destination()
    before = loop.time()
    await destination.request("ask", timeout=LIMIT)
    [(deadline, remaining)] = seen
    assert 0 < remaining <= LIMIT
    # The loop's clock may have been read a little before.
    assert before + LIMIT - 1 < deadline < loop.time() + LIMIT + 1
    # The default is not told.
    await destination.request("ask")
    await destination.call("ask", timeout=LIMIT)
    assert [answer.error for answer in await destination.survey("ask", timeout=LIMIT).all()] == [
        None
    ]
    assert seen[1] == (None, None)
    assert all(0 < remaining <= LIMIT for _, remaining in seen[2:]) and len(seen) == 4


@pytest.mark.parametrize("kind", ["task", "thread", "inline"])
async def test_what_is_left_gets_less(pair: Pair, kind: str) -> None:
    def look(ctx: Context) -> bool:
        first, deadline = left(ctx), ctx.deadline
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass
        changed = ctx.with_data("other")
        assert changed.deadline == deadline == ctx.deadline
        return 0 <= left(changed) < first <= LIMIT

    async def look_later(ctx: Context) -> bool:
        return look(ctx)

    handler: Callable[[Context], Any] = look_later if kind == "task" else look
    pair.role().on_request("look", handler, inline=kind == "inline")
    destination = await pair.destination()
    assert await destination.request("look", timeout=LIMIT)


async def test_messages_have_none(pair: Pair) -> None:
    seen: list[tuple[Any, ...]] = []

    @pair.role().on_message("tell")
    async def tell(ctx: Context) -> None:
        seen.append((ctx.deadline, ctx.remaining, ctx.cancelled, ctx.cancel_reason))

    destination = await pair.destination()
    await destination.send("tell")
    await destination.send("tell", headers={"a": "b"})
    await until(lambda: len(seen) == 2)
    assert seen == [(None, None, False, None)] * 2


async def test_a_handler_whose_time_is_up_is_cancelled(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[Context] = []

    @pair.role().on_request("slow")
    async def slow(ctx: Context) -> None:
        try:
            await forever()
        finally:
            ended.append(ctx)

    destination = await pair.destination()
    for n in range(3):
        with pytest.raises(roletalk.TimeoutError, match=r"^Request timeout exceeded \(50 ms\)"):
            await destination.request("slow", timeout=SHORT)
        await until(lambda n=n: len(ended) == n + 1)  # type: ignore[misc]
    assert all(ctx.cancelled and ctx.remaining == 0 for ctx in ended)
    assert {ctx.cancel_reason for ctx in ended} <= {"deadline", "requester"}
    await until(lambda: is_clean(pair.worker, pair.client))
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_what_expires_while_it_waits_is_not_begun(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_handlers=1)})
    go, begun = asyncio.Event(), []

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> None:
        begun.append(ctx.data)
        await go.wait()

    destination = await pair.destination()
    first = destination.request("wait", 1)
    await until(lambda: begun == [1])
    with pytest.raises((roletalk.TimeoutError, roletalk.RejectedError)):
        await destination.request("wait", 2, timeout=SHORT)
    go.set()
    await first
    assert await destination.request("wait", 3, timeout=LIMIT) is None
    assert begun == [1, 3]
    [unit] = pair.worker.units
    assert unit.stats().requests_expired == 1


async def test_a_stream_that_was_accepted_has_time(pair: Pair) -> None:
    @pair.role().on_writable("slow")
    async def slow(ctx: Context) -> None:
        deadline = ctx.deadline
        assert left(ctx) <= SHORT * 20 and deadline is not None
        stream = ctx.accept()
        await asyncio.sleep(deadline - asyncio.get_running_loop().time() + SHORT)
        assert ctx.remaining == 0 and not ctx.cancelled
        async with stream:
            await stream.write(b"late")

    destination = await pair.destination()
    async with destination.readable("slow", timeout=SHORT * 20) as stream:
        assert await stream.read() == b"late"


async def test_a_stream_that_is_not_accepted_in_time(pair: Pair) -> None:
    ended: list[Context] = []

    @pair.role().on_readable("slow")
    async def slow(ctx: Context) -> None:
        try:
            await forever()
        finally:
            ended.append(ctx)

    destination = await pair.destination()
    with pytest.raises(roletalk.TimeoutError):
        await destination.writable("slow", timeout=SHORT)
    await until(lambda: bool(ended))
    assert ended[0].cancelled
    await until(lambda: is_clean(pair.worker, pair.client))


# What is inherited.


@pytest.mark.parametrize("kind", ["await", "task", "middleware", "call", "survey", "stream"])
async def test_what_a_handler_asks_for_has_no_more_time(chain: Chain, kind: str) -> None:
    seen: list[float | None] = []
    outer: list[float | None] = []

    @chain.last.on_request("look")
    async def look(ctx: Context) -> None:
        seen.append(ctx.remaining)

    @chain.last.on_writable("look")
    async def stream(ctx: Context) -> None:
        seen.append(ctx.remaining)
        async with ctx.accept():
            pass

    async def ask(**options: Any) -> None:
        if kind == "survey":
            [answer] = await chain.to_end.survey("look", **options).all()
            answer.result()
        elif kind == "stream":
            async with chain.to_end.readable("look", **options) as opened:
                await opened.read()
        elif kind == "call":
            await chain.to_end.call("look", **options)
        else:
            await chain.to_end.request("look", **options)

    async def work(ctx: Context) -> None:
        await ask()
        await ask(timeout=2 * LIMIT)
        await ask(timeout=LIMIT / 10)
        outer.append(ctx.remaining)
        await ask(inherit=False)
        await ask(inherit=False, timeout=2 * LIMIT)

    if kind == "middleware":

        @chain.first.middleware
        async def layer(ctx: Context, call_next: Next) -> Any:
            await work(ctx)
            return await call_next(ctx)

    @chain.first.on_request("work")
    async def handle(ctx: Context) -> None:
        if kind == "task":
            await asyncio.create_task(work(ctx))
        elif kind != "middleware":
            await work(ctx)

    await chain.to_middle.request("work", timeout=LIMIT / 2)
    [bound, longer, shorter, free, own] = seen
    [left] = outer
    # The clocks are those of one machine; times travel in milliseconds.
    assert left is not None and bound is not None and longer is not None
    assert 0 < bound <= LIMIT / 2 and 0 < longer <= LIMIT / 2
    assert shorter is not None and 0 < shorter <= LIMIT / 10
    assert free is None
    assert own is not None and LIMIT / 2 < own <= 2 * LIMIT


@pytest.mark.parametrize("kind", ["inline", "thread"])
async def test_what_a_function_asks_for_has_no_more_time(chain: Chain, kind: str) -> None:
    seen: list[float | None] = []
    chain.last.on_request("look", lambda ctx: seen.append(ctx.remaining), inline=True)
    loop = asyncio.get_running_loop()

    async def ask() -> None:
        await chain.to_end.request("look")

    def thread(ctx: Context) -> None:
        asyncio.run_coroutine_threadsafe(ask(), loop).result(LIMIT)

    def inline(ctx: Context) -> None:
        chain.to_end.request("look")

    handler = inline if kind == "inline" else thread
    chain.first.on_request("work", handler, inline=kind == "inline")
    await chain.to_middle.request("work", timeout=LIMIT / 2)
    await chain.to_middle.request("work")
    await until(lambda: len(seen) == 2)
    assert seen[0] is not None and 0 < seen[0] <= LIMIT / 2
    assert seen[1] is None


async def test_with_no_time_left_nothing_is_sent(chain: Chain) -> None:
    outcomes: list[BaseException] = []
    chain.last.on_request("look", lambda ctx: None, inline=True)

    async def attempt(ask: Callable[[], Any]) -> None:
        try:
            await ask()
        except Exception as error:
            outcomes.append(error)

    @chain.first.on_request("late")
    async def late(ctx: Context) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await until(lambda: left(ctx) == 0)
            await attempt(lambda: chain.to_end.request("look"))
            await attempt(lambda: chain.to_end.request("look", timeout=LIMIT))
            await attempt(lambda: chain.to_end.readable("look")._open())
            await chain.to_end.request("look", inherit=False)
            outcomes.append(RuntimeError("the end"))

    # What it answers is in time where the requester has not looked yet.
    with contextlib.suppress(roletalk.TimeoutError):
        await chain.to_middle.request("late", timeout=SHORT)
    await until(lambda: len(outcomes) == 4)
    assert [type(outcome) for outcome in outcomes[:3]] == [roletalk.TimeoutError] * 3
    assert all("0 ms" in str(outcome) for outcome in outcomes[:3])
    [unit] = chain.end.units
    assert unit.stats().requests_received == 1


async def test_one_service_behind_the_other_runs_out_of_time(chain: Chain) -> None:
    ended: list[str] = []

    @chain.last.on_request("slow")
    async def slow(ctx: Context) -> None:
        assert left(ctx) <= SHORT
        try:
            await forever()
        finally:
            ended.append(f"end: {ctx.cancelled}")

    @chain.first.on_request("ask")
    async def ask(ctx: Context) -> Any:
        try:
            return await chain.to_end.request("slow")
        finally:
            ended.append(f"middle: {ctx.cancelled}")

    with pytest.raises(roletalk.TimeoutError):
        await chain.to_middle.request("ask", timeout=SHORT)
    await until(lambda: len(ended) == 2)
    assert sorted(ended) == ["end: True", "middle: True"]
    await until(lambda: is_clean(*chain.peers))


async def test_background_work_has_time_when_its_handler_has_answered(chain: Chain) -> None:
    seen: list[float | None] = []
    chain.last.on_request("look", lambda ctx: seen.append(ctx.remaining), inline=True)
    tasks: list[asyncio.Task[None]] = []
    answered = asyncio.Event()

    async def background() -> None:
        await answered.wait()
        await chain.to_end.request("look")

    @chain.first.on_request("begin")
    async def begin(ctx: Context) -> None:
        tasks.append(asyncio.create_task(background()))

    await chain.to_middle.request("begin", timeout=LIMIT / 2)
    answered.set()
    await tasks[0]
    assert seen == [None]


async def test_a_peer_that_a_handler_makes_has_nothing_of_it(pair: Pair) -> None:
    """Its handlers run in copies of the context in which it was bound."""
    seen: list[Any] = []

    @pair.role().on_request("make")
    async def make(ctx: Context) -> None:
        async with roletalk.Peer("made") as made:
            seen.append(made._host.context.run(roletalk._engine.current_call))
            seen.append(roletalk._engine.current_call() is not None)

    destination = await pair.destination()
    await destination.request("make", timeout=LIMIT)
    assert seen == [None, True]
    assert contextvars.copy_context().run(roletalk._engine.current_call) is None


async def test_a_peer_that_knows_nothing_of_it(plain: str, connect: Connect) -> None:
    pair = await connect()
    seen: list[Any] = []

    @pair.role().on_request("look")
    async def look(ctx: Context) -> str:
        seen.append((ctx.deadline, ctx.remaining))
        return "seen"

    @pair.role().on_request("slow")
    async def slow(ctx: Context) -> None:
        await forever()

    destination = await pair.destination()
    assert await destination.request("look", timeout=LIMIT) == "seen"
    with pytest.raises(roletalk.TimeoutError):
        await destination.request("slow", timeout=SHORT)
    assert seen == [(None, None)]
    [unit] = pair.worker.units
    assert unit.stats().running == 1


def test_blocking_peers() -> None:
    from roletalk import sync

    seen: list[float | None] = []
    with sync.Peer("worker") as worker, sync.Peer("client") as client:
        worker.role("end").on_request("look", lambda ctx: seen.append(ctx.remaining))
        end = client.destination("end")

        def middle(ctx: Context) -> None:
            to_end.request("look")

        client.role("middle").on_request("ask", middle)
        worker.connect(client.listen("127.0.0.1").url)
        to_end = end
        to_end.wait_ready(LIMIT)
        to_middle = worker.destination("middle")
        to_middle.wait_ready(LIMIT)
        to_middle.request("ask", timeout=LIMIT / 2)
        to_middle.request("ask")
    assert seen[0] is not None and 0 < seen[0] <= LIMIT / 2
    assert seen[1] is None
