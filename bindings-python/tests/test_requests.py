from __future__ import annotations

import asyncio
from typing import Any

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Connect, Pair, patient, until


async def test_the_answer_is_what_the_handler_returns(pair: Pair) -> None:
    @pair.role().on_request("add")
    async def add(ctx: Context) -> int:
        return ctx.data["a"] + ctx.data["b"]

    destination = await pair.destination()
    assert await destination.request("add", {"a": 1, "b": 2}, timeout=LIMIT) == 3
    assert await destination.request("add", {"a": 2, "b": 2}, to=pair.unit) == 4


async def test_a_context_says_what_came(pair: Pair) -> None:
    seen = []

    @pair.role("röle").on_request("evént")
    async def look(ctx: Context) -> None:
        seen.append((ctx.kind, ctx.role, ctx.event, ctx.data, ctx.unit.name))
        assert repr(ctx) == "<Context request role='röle' event='evént' data='data'>"

    destination = await pair.destination("röle")
    assert await destination.request("evént", "data") is None
    assert seen == [("request", "röle", "evént", "data", "client")]


async def test_handlers_in_the_loop_and_in_threads(pair: Pair) -> None:
    import threading

    def thread(ctx: Context) -> str:
        return threading.current_thread().name

    here = threading.current_thread().name
    role = pair.role()
    role.on_request("inline", thread, inline=True)
    role.on_request("pool", thread)
    destination = await pair.destination()
    assert await destination.request("inline") == here
    assert await destination.request("pool") == "roletalk handlers"


async def test_threads_run_at_the_same_time(pair: Pair) -> None:
    import threading

    barrier = threading.Barrier(3, timeout=LIMIT)
    pair.role().on_request("meet", lambda ctx: barrier.wait())
    destination = await pair.destination()
    places = await asyncio.gather(*(destination.request("meet") for _ in range(3)))
    assert sorted(places) == [0, 1, 2]


@pytest.mark.parametrize("mode", ["task", "inline", "pool"])
async def test_a_handler_that_raises_rejects_its_request(
    pair: Pair, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_later(ctx: Context) -> None:
        raise ValueError("no such number")

    def fail(ctx: Context) -> None:
        raise ValueError("no such number")

    handler = fail_later if mode == "task" else fail
    pair.role().on_request("fail", handler, inline=mode == "inline")
    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match=r"^no such number$"):
        await destination.request("fail")
    assert [record.message for record in caplog.records] == ["the handler of role/fail failed"]
    assert caplog.records[0].exc_info is not None


async def test_refusing_is_not_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    @pair.role().on_request("refuse")
    async def refuse(ctx: Context) -> None:
        raise roletalk.RejectedError("not today")

    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match=r"^not today$"):
        await destination.request("refuse")
    assert caplog.records == []


async def test_an_exception_without_text_shows_its_class(pair: Pair) -> None:
    @pair.role().on_request("fail")
    async def fail(ctx: Context) -> None:
        raise KeyError

    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match=r"^KeyError$"):
        await destination.request("fail")


async def test_an_answer_that_cannot_be_sent_rejects(pair: Pair) -> None:
    pair.role().on_request("set", lambda ctx: {1, 2}, inline=True)
    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match="The value cannot be sent"):
        await destination.request("set")


@pytest.mark.parametrize(
    ("role", "event", "text"),
    [
        ("unknown", "event", 'The role "unknown" is not registered'),
        ("disabled", "event", 'The role "disabled" is disabled'),
        ("role", "unknown", 'The event "unknown" is not handled'),
    ],
)
async def test_what_is_not_served_is_rejected(pair: Pair, role: str, event: str, text: str) -> None:
    pair.role()
    pair.worker.role("disabled", active=False)
    with pytest.raises(roletalk.RejectedError) as raised:
        await pair.client.destination(role).request(event, to=pair.unit)
    assert str(raised.value) == text


async def test_no_unit(pair: Pair) -> None:
    nobody = pair.client.destination("nobody")
    with pytest.raises(roletalk.NoUnitError, match="No connected units with role \\[nobody\\]"):
        await nobody.request("event")
    with pytest.raises(roletalk.NoUnitError):
        await nobody.send("event")


async def test_timeout(pair: Pair) -> None:
    @pair.role().on_request("never")
    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    with pytest.raises(roletalk.TimeoutError, match=r"Request timeout exceeded \(20 ms\)"):
        await destination.request("never", timeout=0.02)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout"):
            destination.request("never", timeout=wrong)


async def test_cancelling_abandons_the_request(pair: Pair) -> None:
    @pair.role().on_request("never")
    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(destination.request("never"), 0.01)
    assert pair.unit.stats().waiting == 0


async def test_a_storm_of_cancellations_leaves_nothing(pair: Pair) -> None:
    never = asyncio.Event()
    role = pair.role()

    @role.on_request("never")
    async def wait(ctx: Context) -> None:
        await never.wait()

    role.on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()

    async def ask() -> None:
        await destination.request("never")

    for _ in range(5):
        tasks = [asyncio.ensure_future(ask()) for _ in range(300)]
        assert await destination.request("echo", "here") == "here"
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert pair.unit.stats().waiting == 0
    # Nor at the other end.
    [unit] = pair.worker.units
    await until(lambda: unit.stats().running == 0)
    assert unit.stats().cancels_received == 1500
    never.set()
    await until(lambda: next(iter(pair.worker.stats().units.values())).running == 0)


async def test_requests_are_answered_in_any_order(pair: Pair) -> None:
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> Any:
        await gates[ctx.data].wait()
        return ctx.data

    destination = await pair.destination()
    first, second = destination.request("wait", "a"), destination.request("wait", "b")
    gates["b"].set()
    assert await second == "b"
    assert not first.done()
    gates["a"].set()
    assert await first == "a"


async def test_in_turn_over_units(connect: Connect) -> None:
    one = await connect()
    other = patient(name="other")
    listener = await other.listen("127.0.0.1")
    await one.client.connect(listener.url)
    for peer in (one.worker, other):
        peer.role("role").on_request("name", lambda ctx, peer=peer: peer.name, inline=True)
    destination = one.client.destination("role")
    await until(lambda: len(destination.units) == 2)
    names = [await destination.request("name") for _ in range(4)]
    assert sorted(names[:2]) == sorted(names[2:]) == ["other", "worker"]
    answers = await destination.survey("name", timeout=LIMIT).all()
    assert {answer.unit.name: answer.result() for answer in answers} == {
        "other": "other",
        "worker": "worker",
    }
    await other.close()


async def test_a_survey_tells_who_failed(pair: Pair) -> None:
    pair.role()
    destination = await pair.destination()
    async with destination.survey("unknown") as survey:
        assert survey.asked == 1
        async for answer in survey:
            assert answer.unit is pair.unit
            assert isinstance(answer.error, roletalk.RejectedError)
            with pytest.raises(roletalk.RejectedError):
                answer.result()


async def test_pending_requests_fail_when_the_connection_is_lost(pair: Pair) -> None:
    @pair.role().on_request("never")
    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    future = destination.request("never")
    await until(lambda: len(pair.worker.stats().units) == 1)
    await pair.worker.close()
    with pytest.raises(roletalk.ConnectionLostError, match="sockets have been closed"):
        await future


async def test_many_waiting_requests_are_an_error(connect: Connect) -> None:
    pair = await connect(client={"limits": roletalk.Limits(waiting_requests=2)})

    @pair.role().on_request("never")
    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    waiting = [destination.request("never") for _ in range(2)]
    with pytest.raises(roletalk.OverloadedError):
        await destination.request("never")
    for future in waiting:
        future.cancel()


async def test_too_large(connect: Connect) -> None:
    limits = {"limits": roletalk.Limits(message_size=10_000)}
    pair = await connect(worker=limits, client=limits)
    role = pair.role()
    role.on_request("echo", lambda ctx: ctx.data * 2, inline=True)
    destination = await pair.destination()
    with pytest.raises(roletalk.TooLargeError):
        await destination.request("echo", b"x" * 10_001)
    with pytest.raises(roletalk.RejectedError, match="bytes"):
        await destination.request("echo", b"x" * 9_900)


async def test_requests_wait_for_room(connect: Connect) -> None:
    pair = await connect(client={"limits": roletalk.Limits(queue_per_connection=10_000)})
    pair.role().on_request("size", lambda ctx: len(ctx.data), inline=True)
    destination = await pair.destination()
    futures = [destination.request("size", b"x" * 9_000, timeout=LIMIT) for _ in range(50)]
    assert await asyncio.gather(*futures) == [9_000] * 50


async def test_answers_wait_for_room(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(queue_per_connection=10_000)})
    pair.role().on_request("bytes", lambda ctx: b"x" * 9_000, inline=True)
    destination = await pair.destination()
    futures = [destination.request("bytes", timeout=LIMIT) for _ in range(50)]
    assert {len(answer) for answer in await asyncio.gather(*futures)} == {9_000}
