"""Peers and threads: with the interpreter's lock, and, on free-threaded builds, without."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Awaitable
from typing import Any, Callable, cast

import pytest

import roletalk
from roletalk import Context
from roletalk._pool import Pool

from .conftest import LIMIT, Connect, Pair, until


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="not a free-threaded interpreter"
)
def test_the_module_needs_no_interpreter_lock() -> None:
    # Importing a module that needs it, such as an event loop's, switches it on for the process.
    code = "import roletalk, sys; sys.exit(sys._is_gil_enabled())"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Calls a function in several threads that begin at the same time; raises what they raise."""
    barrier = threading.Barrier(count, timeout=LIMIT)
    errors: list[BaseException] = []

    def run(n: int) -> None:
        try:
            barrier.wait()
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def calls(
    pair: Pair, role: roletalk.Role, destination: roletalk.Destination
) -> dict[str, Callable[[], Any]]:
    """Everything that may only be done in the loop of a peer."""
    client, unit = pair.client, pair.unit
    return {
        "set_tag": lambda: client.set_tag("key", "value"),
        "add_preshared_key": lambda: client.add_preshared_key("id", "key"),
        "remove_preshared_key": lambda: client.remove_preshared_key("id"),
        "role": lambda: client.role("other"),
        "destination": lambda: client.destination("other"),
        "disconnect": lambda: client.disconnect("ws://127.0.0.1:1"),
        "stats": lambda: client.stats(),
        "unit.stats": lambda: unit.stats(),
        "enable": lambda: role.enable(),
        "disable": lambda: role.disable(),
        "request": lambda: destination.request("echo"),
        "survey": lambda: destination.survey("echo"),
        "readable": lambda: destination.readable("x"),
        "writable": lambda: destination.writable("x"),
        "listener.close": lambda: pair.listener.close(),
    }


def coroutines(
    pair: Pair, destination: roletalk.Destination, events: roletalk.Events
) -> dict[str, Callable[[], Awaitable[Any]]]:
    """The same, to be awaited."""
    client = pair.client
    return {
        "listen": lambda: client.listen("127.0.0.1"),
        "connect": lambda: client.connect("ws://127.0.0.1:1"),
        "drain": lambda: client.drain(1),
        "close": lambda: client.close(),
        "wait_ready": lambda: destination.wait_ready(),
        "send": lambda: destination.send("line"),
        "broadcast": lambda: destination.broadcast("line"),
        "events": lambda: events.__anext__(),
        "unit.close": lambda: pair.unit.close(),
    }


async def test_a_peer_is_used_in_one_thread(pair: Pair) -> None:
    destination = await pair.destination_of("role")
    events, role = pair.client.events(), pair.role()

    def use(_: int) -> None:
        for name, call in calls(pair, role, destination).items():
            with pytest.raises(RuntimeError, match="event loop of another thread"):
                call()
                pytest.fail(name)
        for name, start in coroutines(pair, destination, events).items():

            async def elsewhere() -> None:
                await asyncio.wait_for(start(), LIMIT)

            with pytest.raises(RuntimeError, match=r"another (thread|event loop)"):
                asyncio.run(elsewhere())
                pytest.fail(name)

    await asyncio.get_running_loop().run_in_executor(None, in_threads, 2, use)
    assert await destination.request("echo", 1, timeout=LIMIT) == 1
    assert pair.client.tags == {}


async def test_what_any_thread_may_do(pair: Pair) -> None:
    destination = await pair.destination_of("role")
    role = pair.role()
    stop = threading.Event()

    def look(n: int) -> None:
        while True:
            assert len(pair.client.units) == len(destination.units) == 1
            assert pair.client.name == "client" and pair.client.tags == {}
            assert pair.unit.is_open and role.is_active and destination.is_ready
            assert pair.unit.roles == ["role"] and not pair.client.is_closed
            role.on_request(f"event {n}", lambda ctx: ctx.data, inline=True, replace=True)
            gc.collect()
            if stop.is_set():
                return

    looking = asyncio.get_running_loop().run_in_executor(None, in_threads, 2, look)
    try:
        for _ in range(20):
            futures = [destination.request("echo", n, timeout=LIMIT) for n in range(100)]
            assert await asyncio.gather(*futures) == list(range(100))
    finally:
        stop.set()
        await looking
    assert await destination.request("event 1", 2, timeout=LIMIT) == 2


async def test_one_thread_of_many_binds_a_peer() -> None:
    outcomes: list[str] = []

    def enter(_: int) -> None:
        async def use() -> None:
            try:
                async with peer:
                    outcomes.append("entered")
                    barrier.wait()
            except RuntimeError as error:
                assert "another" in str(error)
                outcomes.append("refused")
                barrier.wait()

        asyncio.run(use())

    for _ in range(20):
        peer = await asyncio.get_running_loop().run_in_executor(None, roletalk.Peer)
        barrier = threading.Barrier(4, timeout=LIMIT)
        await asyncio.get_running_loop().run_in_executor(None, in_threads, 4, enter)
        assert sorted(outcomes) == ["entered", "refused", "refused", "refused"]
        outcomes.clear()


async def test_a_stream_may_be_dropped_in_another_thread(pair: Pair) -> None:
    broken = asyncio.get_running_loop().create_future()

    @pair.role().on_readable("upload")
    async def upload(ctx: roletalk.Context) -> None:
        try:
            await ctx.accept().read()
        except roletalk.StreamClosedError as error:
            broken.set_result(str(error))

    destination = await pair.destination()
    streams = [await destination.writable("upload")]
    await asyncio.get_running_loop().run_in_executor(None, in_threads, 1, lambda _: streams.clear())
    assert "dropped" in await asyncio.wait_for(broken, LIMIT)
    await until(lambda: pair.unit.stats().streams == 0)


def test_several_loops_in_several_threads() -> None:
    async def talk() -> int:
        async with roletalk.Peer() as worker, roletalk.Peer() as client:
            worker.role("role").on_request("echo", lambda ctx: ctx.data, inline=True)
            await client.connect((await worker.listen("127.0.0.1")).url)
            destination = client.destination("role")
            futures = [destination.request("echo", n) for n in range(1000)]
            return sum(await asyncio.gather(*futures))

    sums: list[int] = []
    threads = [threading.Thread(target=lambda: sums.append(asyncio.run(talk()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [499_500] * 4


async def test_peers_in_several_threads_talk(connect: Connect) -> None:
    """One peer here, its partners in threads with loops of their own."""
    made = await connect()
    made.role().on_request("add", lambda ctx: ctx.data + 1, inline=True)
    sums: list[int] = []

    async def talk() -> int:
        async with roletalk.Peer() as peer:
            await peer.connect(made.listener.url)
            destination = peer.destination("role")
            await destination.wait_ready(LIMIT)
            futures = [destination.request("add", n, timeout=LIMIT) for n in range(500)]
            return sum(await asyncio.gather(*futures))

    work = lambda _: sums.append(asyncio.run(talk()))  # noqa: E731
    await asyncio.get_running_loop().run_in_executor(None, in_threads, 4, work)
    assert sums == [125_250] * 4


async def test_many_handlers_in_threads(pair: Pair) -> None:
    """None of what the threads have done is lost."""

    @pair.role().on_request("work")
    def work(ctx: roletalk.Context) -> int:
        return int(ctx.data) + 1

    destination = await pair.destination()
    for _ in range(5):
        futures = [destination.request("work", n, timeout=LIMIT) for n in range(1000)]
        assert await asyncio.gather(*futures) == list(range(1, 1001))


async def test_an_answer_that_raises_takes_no_other_with_it() -> None:
    loop = asyncio.get_running_loop()
    raised: asyncio.Future[Any] = loop.create_future()
    loop.set_exception_handler(lambda _, context: raised.set_result(context["exception"]))
    third, got = threading.Event(), []
    all_there: asyncio.Future[None] = loop.create_future()
    pool = Pool(loop, 1, contextvars.copy_context())

    def done(ctx: Any, value: Any, error: BaseException | None) -> None:
        if value == 0:
            raise ValueError("first")
        got.append(value)
        if len(got) == 2:
            all_there.set_result(None)

    def handler(number: Any) -> Any:
        if number == 2:
            third.set()
        return number

    for number in range(3):
        pool.submit(contextvars.copy_context(), handler, cast(Context, number), done)
    # The loop is busy until all have ended, or nearly so.
    assert third.wait(LIMIT)
    assert str(await raised) == "first"
    await asyncio.wait_for(all_there, LIMIT)
    assert got == [1, 2]
    pool.close()
