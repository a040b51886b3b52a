"""Whatever is waited for has an outcome when the peer ends, however it does."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, sync

from .conftest import LIMIT, patient


class Scene:
    """A worker that keeps everybody waiting, and a client of it."""

    def __init__(self) -> None:
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.worker = patient(name="worker")
        self.client = patient(
            name="client", limits=roletalk.Limits(queue_per_connection=1, handshake_timeout=LIMIT)
        )
        self.events = self.client.events()

    async def set(self) -> None:
        role = self.worker.role("role")

        @role.on_request("never")
        async def never(ctx: Context) -> None:
            await asyncio.Event().wait()

        @role.on_writable("refuse")
        async def hold(ctx: Context) -> None:
            await asyncio.Event().wait()

        @role.on_readable("up")
        async def up(ctx: Context) -> None:
            async with ctx.accept():
                await asyncio.Event().wait()

        @role.on_writable("down")
        async def down(ctx: Context) -> None:
            async with ctx.accept():
                await asyncio.Event().wait()

        self.unit = await self.client.connect((await self.worker.listen("127.0.0.1")).url)
        self.destination = self.client.destination("role")
        await self.destination.wait_ready(LIMIT)
        self.up = await self.destination.writable("up")
        self.finished = await self.destination.writable("up")
        self.down = await self.destination.readable("down")
        async for _ in self.events:
            if not self.events._queue:
                break

    def full(self) -> None:
        """Until the loop comes by, the connection has no room."""
        self.destination.request("never", "x")

    async def close(self) -> None:
        await self.client.close()
        await self.worker.close()
        self.silent.close()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    await made.set()
    try:
        yield made
    finally:
        await made.close()


CLOSED = (roletalk.ClosedError,)


async def full_request(on: Scene) -> None:
    on.full()
    await on.destination.request("never", bytes(100))


async def full_send(on: Scene) -> None:
    on.full()
    # It has room soon, and has been sent then.
    await on.destination.send("never", bytes(100))
    raise roletalk.ClosedError("sent before")


async def written(on: Scene) -> None:
    while True:
        await on.up.write(bytes(1 << 20))


async def surveyed(on: Scene) -> None:
    for answer in await on.destination.survey("never").all():
        answer.result()


async def surveyed_one(on: Scene) -> None:
    async for answer in on.destination.survey("never"):
        answer.result()


async def every_event(on: Scene) -> None:
    async for _ in on.events:
        pass


WAITS: dict[str, tuple[Callable[[Scene], Awaitable[Any]], tuple[type[Exception], ...]]] = {
    "request": (lambda on: on.destination.request("never"), CLOSED),
    "request without room": (full_request, CLOSED),
    "send without room": (full_send, CLOSED),
    "survey": (surveyed, CLOSED),
    "answers": (surveyed_one, CLOSED),
    "wait_ready": (lambda on: on.client.destination("other").wait_ready(), CLOSED),
    "connect": (
        lambda on: on.client.connect(f"ws://127.0.0.1:{on.silent.getsockname()[1]}"),
        CLOSED,
    ),
    "a stream's opening": (lambda on: on.destination.readable("refuse")._open(), CLOSED),
    "read": (lambda on: on.down.read(), CLOSED),
    "write": (written, CLOSED),
    "finish": (lambda on: on.finished.finish(), CLOSED),
}
"""What waits, and what it raises when its own peer ends."""

RETURNS: dict[str, Callable[[Scene], Awaitable[Any]]] = {
    "wait_closed": lambda on: on.unit.wait_closed(),
    "unit.close": lambda on: on.unit.close(),
    "events": every_event,
    "serve": lambda on: on.client.serve(),
    "drain": lambda on: on.client.drain(LIMIT),
    "close": lambda on: on.client.close(),
}
"""What waits, and returns then."""


async def close(on: Scene) -> None:
    await on.client.close()


async def drain(on: Scene) -> None:
    assert not await on.client.drain(0.01)


async def loop_ends(on: Scene) -> None:
    """As `asyncio.run` has it, for the tasks of the peer."""
    [keeper] = [task for task in asyncio.all_tasks() if task is on.client._host._keeper]
    keeper.cancel()
    await asyncio.wait([keeper])


async def closing_is_aborted(on: Scene) -> None:
    closing = asyncio.ensure_future(on.client.close())
    await asyncio.sleep(0)
    assert on.client._host._closing is not None
    on.client._host._closing.cancel()
    await asyncio.wait([closing])


ENDS = [close, drain, loop_ends, closing_is_aborted]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_everything_settles_with_its_peer(end: Callable[[Scene], Awaitable[None]]) -> None:
    async with scene() as on:
        waiting = {name: asyncio.ensure_future(wait(on)) for name, (wait, _) in WAITS.items()}
        returning = {
            name: asyncio.ensure_future(wait(on))
            for name, wait in RETURNS.items()
            if name not in ("drain", "close", "unit.close")
        }
        # Of these, nobody holds anything but the peer.
        on.destination.request("never")
        for _ in range(10):
            await asyncio.sleep(0)
        sent = {name for name, task in {**waiting, **returning}.items() if task.done()}
        assert sent <= {"send without room"}
        await end(on)
        _, pending = await asyncio.wait([*waiting.values(), *returning.values()], timeout=LIMIT)
        named = {task: name for name, task in {**waiting, **returning}.items()} if pending else {}
        assert [named[task] for task in pending] == []
        for name, task in waiting.items():
            expected = WAITS[name][1]
            with pytest.raises(expected):
                await task
                pytest.fail(name)
        for task in returning.values():
            await task


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize("end", [close, loop_ends], ids=lambda end: end.__name__)
async def test_what_returns_with_the_peer(
    name: str, end: Callable[[Scene], Awaitable[None]]
) -> None:
    async with scene() as on:
        running = on.destination.request("never")
        waiting = asyncio.ensure_future(RETURNS[name](on))
        await asyncio.sleep(0)
        await end(on)
        await asyncio.wait_for(waiting, LIMIT)
        assert on.client.is_closed
        with pytest.raises((roletalk.ClosedError, roletalk.ConnectionLostError)):
            await running


async def test_everything_settles_with_the_other_peer() -> None:
    async with scene() as on:
        names = ["request", "survey", "answers", "a stream's opening", "read", "write", "finish"]
        waiting = {name: asyncio.ensure_future(WAITS[name][0](on)) for name in names}
        gone = asyncio.ensure_future(on.unit.wait_closed())
        for _ in range(10):
            await asyncio.sleep(0)
        await on.worker.close()
        for name, task in waiting.items():
            with pytest.raises((roletalk.ConnectionLostError, roletalk.StreamClosedError)):
                await asyncio.wait_for(task, LIMIT)
                pytest.fail(name)
        await asyncio.wait_for(gone, LIMIT)


async def test_a_survey_that_is_cancelled_ends_for_who_waits() -> None:
    async with scene() as on:
        survey = on.destination.survey("never")
        waiting = asyncio.ensure_future(survey.all())
        iterating = asyncio.ensure_future(survey.__anext__())
        await asyncio.sleep(0)
        survey.cancel()
        assert await asyncio.wait_for(waiting, LIMIT) == []
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(iterating, LIMIT)


USES: dict[str, Callable[[Scene], Any]] = {
    "request": lambda on: on.destination.request("never"),
    "send": lambda on: on.destination.send("never"),
    "broadcast": lambda on: on.destination.broadcast("never"),
    "survey": lambda on: on.destination.survey("never"),
    "wait_ready": lambda on: on.destination.wait_ready(),
    "readable": lambda on: on.destination.readable("down"),
    "writable": lambda on: on.destination.writable("up"),
    "role": lambda on: on.client.role("other"),
    "destination": lambda on: on.client.destination("other"),
    "listen": lambda on: on.client.listen("127.0.0.1"),
    "connect": lambda on: on.client.connect("ws://127.0.0.1:1"),
    "drain": lambda on: on.client.drain(),
    "serve": lambda on: on.client.serve(),
    "enter": lambda on: on.client.__aenter__(),
}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_closed_peer_says_the_same_everywhere(
    end: Callable[[Scene], Awaitable[None]],
) -> None:
    async with scene() as on:
        await end(on)
        for name, use in USES.items():
            with pytest.raises(roletalk.ClosedError, match=r"^The peer is closed(\n|$)"):
                outcome = use(on)
                if asyncio.iscoroutine(outcome) or asyncio.isfuture(outcome):
                    await asyncio.wait_for(outcome, LIMIT)
                pytest.fail(name)
        await on.client.close()


def test_blocking_calls_settle_with_their_peer() -> None:
    with sync.Peer("worker") as worker, sync.Peer("client") as client:
        role = worker.role("role")

        @role.on_request("never")
        async def never(ctx: Context) -> None:
            await asyncio.Event().wait()

        @role.on_readable("up")
        async def up(ctx: Context) -> None:
            async with ctx.accept():
                await asyncio.Event().wait()

        @role.on_writable("down")
        async def down(ctx: Context) -> None:
            async with ctx.accept():
                await asyncio.Event().wait()

        unit = client.connect(worker.listen("127.0.0.1").url)
        destination = client.destination("role")
        destination.wait_ready(LIMIT)
        silent = socket.create_server(("127.0.0.1", 0))
        reader, writer = destination.readable("down"), destination.writable("up")
        finished = destination.writable("up")

        def write() -> None:
            while True:
                writer.write(bytes(1 << 20))

        calls: dict[str, Callable[[], Any]] = {
            "request": lambda: destination.request("never"),
            "survey": lambda: [each.result() for each in destination.survey("never")],
            "wait_ready": lambda: client.destination("other").wait_ready(),
            "connect": lambda: client.connect(f"ws://127.0.0.1:{silent.getsockname()[1]}"),
            "read": reader.read,
            "write": write,
            "finish": finished.finish,
            "events": lambda: list(client.events()),
        }
        outcomes: dict[str, Any] = {}

        def wait(name: str) -> None:
            try:
                outcomes[name] = calls[name]()
            except BaseException as error:
                outcomes[name] = error

        threads = [threading.Thread(target=wait, args=(name,), name=name) for name in calls]
        for thread in threads:
            thread.start()
        # Each of them waits in the loop.
        while len(worker.stats().units) == 0 or worker.stats().units[worker.units[0]].running < 5:
            time.sleep(0.001)
        while not client._inner._host.subscribers:
            time.sleep(0.001)
        client.close()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), thread.name
        assert isinstance(outcomes.pop("events"), list)
        for name, outcome in outcomes.items():
            assert isinstance(outcome, CLOSED), (name, outcome)
        assert not unit.is_open
        silent.close()


def test_blocking_events_end_with_their_peer_also_when_first_asked_for_after_it() -> None:
    with sync.Peer("peer") as peer:
        events = peer.events()
        peer.close()
        assert list(events) == []
