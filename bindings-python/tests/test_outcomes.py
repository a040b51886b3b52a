"""However a handler ends, its request has one outcome, and the handler counts as ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, Next

from .conftest import LIMIT, Connect, Pair, until


class Mine(BaseException):
    """No ``Exception``."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Worse(Exception):
    def __str__(self) -> str:
        raise Mine("no text either")


def raising(error: BaseException) -> Callable[[Context], Any]:
    def handler(ctx: Context) -> Any:
        raise error

    return handler


def empty(ctx: Context) -> Any:
    return next(iter([]))


ENDINGS: dict[str, tuple[Callable[[Context], Any], str]] = {
    "StopIteration": (empty, "StopIteration"),
    "StopAsyncIteration": (raising(StopAsyncIteration()), "StopAsyncIteration"),
    "GeneratorExit": (raising(GeneratorExit()), "GeneratorExit"),
    "BaseException": (raising(Mine("mine")), "^mine$"),
    "CancelledError": (raising(asyncio.CancelledError()), "^The handler was cancelled$"),
    "without a text": (raising(ValueError()), "^ValueError$"),
    "text that raises": (raising(Speechless()), "^Speechless$"),
    "text that raises worse": (raising(Worse()), "^Worse$"),
    "surrogates": (raising(ValueError("\ud800")), "."),
    "rejected": (raising(roletalk.RejectedError("no")), "^no$"),
    "rejected without a text": (raising(roletalk.RejectedError()), "^$"),
    "not serialisable": (lambda ctx: object(), "cannot be sent"),
    "not UTF-8": (lambda ctx: "\ud800", "surrogates"),
}
KINDS = ["task", "later", "thread", "inline"]
"""Of tasks, those that end right where they begin, and others."""


def register(role: roletalk.Role, event: str, kind: str, handler: Callable[[Context], Any]) -> None:
    async def task(ctx: Context) -> Any:
        if kind == "later":
            await asyncio.sleep(0)
        return handler(ctx)

    if kind in ("task", "later"):
        role.on_request(event, task)
    else:
        role.on_request(event, handler, inline=kind == "inline")


def layered(peer: roletalk.Peer) -> None:
    @peer.middleware
    async def layer(ctx: Context, call_next: Next) -> Any:
        return await call_next(ctx)


def running(peer: roletalk.Peer) -> int:
    return sum(unit.running for unit in peer.stats().units.values())


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_ending_is_one_rejection(
    connect: Connect, caplog: pytest.LogCaptureFixture, kind: str, middleware: bool
) -> None:
    pair = await connect()
    if middleware:
        layered(pair.worker)
    for event, (handler, _) in ENDINGS.items():
        register(pair.role(), event, kind, handler)
    destination = await pair.destination_of("role")
    for event, (_, text) in ENDINGS.items():
        with pytest.raises(roletalk.RejectedError, match=text):
            await asyncio.wait_for(destination.request(event, timeout=LIMIT), LIMIT)
            pytest.fail(event)
    assert await destination.request("echo", 1, timeout=LIMIT) == 1
    assert running(pair.worker) == 0
    assert await pair.worker.drain(LIMIT)
    gc.collect()
    # It was told once, by this package.
    assert {record.name for record in caplog.records} == {"roletalk"}
    failed = [record for record in caplog.records if record.levelno >= logging.ERROR]
    # All but those that reject in so many words, and those that stand for being ended from outside.
    assert len(failed) == len(ENDINGS) - 4


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
async def test_every_ending_of_a_stream_handler(connect: Connect, middleware: bool) -> None:
    pair = await connect()
    if middleware:
        layered(pair.worker)

    def stream(handler: Callable[[Context], Any]) -> Callable[[Context], Any]:
        async def run(ctx: Context) -> None:
            if ctx.data:
                ctx.accept()
            handler(ctx)

        return run

    raised = {event: end for event, end in ENDINGS.items() if "not" not in event}
    for event, (handler, _) in raised.items():
        pair.role().on_writable(event, stream(handler))
    destination = await pair.destination_of("role")
    for event, (_, text) in raised.items():
        with pytest.raises(roletalk.RejectedError, match=text):
            await destination.readable(event, False, timeout=LIMIT)
            pytest.fail(event)
        with pytest.raises(roletalk.StreamClosedError):
            await (await destination.readable(event, True, timeout=LIMIT)).read()
            pytest.fail(event)
    await until(lambda: running(pair.worker) == 0)
    assert await pair.worker.drain(LIMIT)


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
@pytest.mark.parametrize("error", [SystemExit("over"), KeyboardInterrupt("over")], ids=ascii)
async def test_a_thread_cannot_end_the_program(
    connect: Connect, error: BaseException, middleware: bool
) -> None:
    pair = await connect()
    if middleware:
        layered(pair.worker)
    pair.role().on_request("end", raising(error))
    destination = await pair.destination_of("role")
    with pytest.raises(roletalk.RejectedError, match=r"^over$"):
        await destination.request("end", timeout=LIMIT)
    assert await destination.request("echo", 1, timeout=LIMIT) == 1
    assert running(pair.worker) == 0


ENDING = """
import asyncio, sys, roletalk

class Codec(roletalk.JsonCodec):
    def dumps(self, value):
        raise SystemExit(7)

def inline(ctx):
    sys.exit(7)

async def task(ctx):
    sys.exit(7)

async def later(ctx):
    await asyncio.sleep(0)
    sys.exit(7)

async def main(kind, middleware):
    async with roletalk.Peer(codec=Codec()) as peer:
        if middleware == "True":
            @peer.middleware
            async def layer(ctx, call_next):
                return await call_next(ctx)
        role = peer.role("role")
        role.on_request("inline", inline, inline=True)
        role.on_request("task", task)
        role.on_request("later", later)
        role.on_request("codec", lambda ctx: [])
        print((await peer.listen("127.0.0.1")).url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
@pytest.mark.parametrize("kind", ["inline", "task", "later", "codec"])
async def test_the_loop_can_be_ended(kind: str, middleware: bool) -> None:
    """Who asked hears of it, one way or the other."""
    command = [sys.executable, "-c", ENDING, kind, str(middleware)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        async with roletalk.Peer() as client:
            await client.connect((await asyncio.to_thread(process.stdout.readline)).strip())
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            with pytest.raises((roletalk.RejectedError, roletalk.ConnectionLostError)):
                await destination.request(kind, timeout=LIMIT)
        await asyncio.to_thread(process.wait, LIMIT)
        assert process.returncode == 7
    finally:
        process.kill()
        process.communicate()


async def test_a_thread_that_cannot_be_started(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    pair.role().on_request("work", lambda ctx: called.append(ctx.data))
    destination = await pair.destination_of("role")

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(roletalk.RejectedError, match="can't start new thread"):
            await destination.request("work", 1, timeout=LIMIT)
    assert running(pair.worker) == 0
    await destination.request("work", 2, timeout=LIMIT)
    assert called == [2]


async def test_a_task_that_cannot_be_made() -> None:
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    broken = False

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        if broken and "run" in work.__qualname__.lower():
            work.close()
            raise RuntimeError("no tasks today")
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(make)
    try:
        async with roletalk.Peer() as worker, roletalk.Peer() as client:
            role = worker.role("role")

            @role.on_request("task")
            async def task(ctx: Context) -> int:
                return 1

            await client.connect((await worker.listen("127.0.0.1")).url)
            destination = client.destination("role")
            broken = True
            with pytest.raises(roletalk.RejectedError, match="no tasks today"):
                await destination.request("task", timeout=LIMIT)
            broken = False
            assert await destination.request("task", timeout=LIMIT) == 1
            assert running(worker) == 0
    finally:
        loop.set_task_factory(factory)
