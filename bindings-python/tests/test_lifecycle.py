"""The end of peers, loops, threads and processes."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Connect, Pair, turned_away, until


async def test_a_closed_peer(pair: Pair) -> None:
    pair.role()
    destination = await pair.destination()
    waiting = asyncio.ensure_future(pair.client.destination("other").wait_ready())
    await asyncio.sleep(0)
    await pair.client.close()
    await pair.client.close()
    assert pair.client.is_closed
    with pytest.raises(roletalk.ClosedError):
        await waiting
    for use in (
        lambda: pair.client.connect(pair.listener.url),
        lambda: pair.client.listen("127.0.0.1"),
        lambda: destination.request("x"),
        lambda: destination.send("x"),
        lambda: destination.broadcast("x"),
        lambda: destination.wait_ready(),
        lambda: pair.client.drain(1),
    ):
        with pytest.raises(roletalk.ClosedError):
            await use()
    for call in (
        lambda: pair.client.role("x"),
        lambda: pair.client.destination("x"),
        lambda: destination.readable("x"),
        lambda: destination.survey("x"),
    ):
        with pytest.raises(roletalk.ClosedError):
            call()


async def test_closing_cancels_handlers(pair: Pair) -> None:
    cancelled: list[str] = []
    started = asyncio.Event()

    @pair.role().on_message("wait")
    async def wait(ctx: Context) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(ctx.event)
            raise

    destination = await pair.destination()
    await destination.send("wait")
    await started.wait()
    await pair.worker.close()
    assert cancelled == ["wait"]


async def test_a_handler_may_close_its_peer(pair: Pair) -> None:
    @pair.role().on_message("close")
    async def close(ctx: Context) -> None:
        await pair.worker.close()

    destination = await pair.destination()
    await destination.send("close")
    await asyncio.wait_for(pair.unit.wait_closed(), LIMIT)


async def test_draining_lets_handlers_finish(pair: Pair) -> None:
    go, started = asyncio.Event(), asyncio.Event()

    @pair.role().on_request("work")
    async def work(ctx: Context) -> str:
        started.set()
        await go.wait()
        return "done"

    destination = await pair.destination_of("role")
    future = destination.request("work")
    await started.wait()
    draining = asyncio.ensure_future(pair.worker.drain(LIMIT))
    await until(lambda: not destination.units)
    assert "is disabled" in str(await turned_away(destination, pair.unit))
    go.set()
    assert await future == "done"
    assert await draining
    assert pair.worker.is_closed


async def test_draining_has_a_limit(pair: Pair) -> None:
    @pair.role().on_message("wait")
    async def wait(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    await destination.send("wait")
    await until(lambda: next(iter(pair.worker.stats().units.values())).running == 1)
    assert not await pair.worker.drain(0.01)


def test_peers_can_be_set_up_before_the_loop_runs() -> None:
    peer = roletalk.Peer()
    peer.role("role").on_request("x", lambda ctx: "here", inline=True)
    with pytest.raises(roletalk.ClosedError, match="not bound"):
        peer.destination("role").request("x")

    async def main() -> Any:
        async with peer, roletalk.Peer() as client:
            await client.connect((await peer.listen("127.0.0.1")).url)
            return await client.destination("role").request("x")

    assert asyncio.run(main()) == "here"


def test_a_peer_belongs_to_one_loop() -> None:
    peer = roletalk.Peer()

    async def enter() -> None:
        await peer.listen("127.0.0.1")

    first = asyncio.new_event_loop()
    first.run_until_complete(enter())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(enter())
    first.run_until_complete(peer.close())
    first.close()


async def test_a_closed_peer_is_freed(connect: Connect) -> None:
    peer: Any = roletalk.Peer()
    listener = await peer.listen("127.0.0.1")
    role = peer.role("role")
    role.on_request("x", lambda ctx, peer=peer: peer.name)
    client: Any = roletalk.Peer()
    unit = await client.connect(listener.url)
    assert await client.destination("role").request("x") == ""
    gone = [weakref.ref(each) for each in (peer, client, unit)]
    await client.close()
    await peer.close()
    del peer, client, unit, role, listener
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


def test_an_abandoned_peer_is_freed() -> None:
    class Marker:
        pass

    markers: list[Any] = []

    async def main() -> None:
        worker, client = roletalk.Peer(), roletalk.Peer()
        marker = Marker()
        markers.append(weakref.ref(marker))

        @worker.role("role").on_request("never")
        async def never(ctx: Context, marker: Any = marker) -> None:
            await asyncio.Event().wait()

        await client.connect((await worker.listen("127.0.0.1")).url)
        destination = client.destination("role")

        async def ask(marker: Any = marker) -> None:
            await destination.request("never")

        asyncio.ensure_future(ask())  # noqa: RUF006 # the test is about what nobody holds
        await until(lambda: sum(s.running for s in worker.stats().units.values()) == 1)

    # The loop ends with everything open and under way.
    asyncio.run(main())
    gc.collect()
    assert [marker() for marker in markers] == [None]


def test_objects_do_not_pile_up() -> None:
    async def main() -> None:
        async with roletalk.Peer() as worker, roletalk.Peer() as client:
            role = worker.role("role")

            @role.on_request("echo")
            async def echo(ctx: Context) -> Any:
                return ctx.data

            @role.on_request("fail")
            async def fail(ctx: Context) -> None:
                raise roletalk.RejectedError("no")

            await client.connect((await worker.listen("127.0.0.1")).url)
            destination = client.destination("role")

            async def work(rounds: int) -> None:
                for _ in range(rounds):
                    await destination.request("echo", {"a": [1, "x"]})
                    with pytest.raises(roletalk.RejectedError):
                        await destination.request("fail")

            await work(100)
            gc.collect()
            before = len(gc.get_objects())
            await work(500)
            gc.collect()
            assert len(gc.get_objects()) - before < 100

    asyncio.run(main())


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


OPEN = """
import asyncio, sys, roletalk

async def main():
    global worker, client
    worker, client = roletalk.Peer(), roletalk.Peer()
    worker.role("role").on_request("x", lambda ctx: "pooled")
    await client.connect((await worker.listen("127.0.0.1")).url)
    print(await client.destination("role").request("x"), flush=True)
"""


@pytest.mark.parametrize(
    "end",
    [
        "asyncio.run(main())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
        "asyncio.run(main()); sys.exit(0)",
        "asyncio.run(main()); del worker, client; import gc; gc.collect()",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    ],
)
def test_the_interpreter_exits_with_peers_open(end: str) -> None:
    ended = run(OPEN + end)
    assert (ended.returncode, ended.stdout) == (0, "pooled\n")
    assert "Traceback" not in ended.stderr


def test_the_interpreter_exits_with_a_handler_in_a_thread() -> None:
    program = (
        OPEN.replace('lambda ctx: "pooled"', "hang")
        + """
import threading
def hang(ctx):
    print("hanging", flush=True)
    loop.call_soon_threadsafe(hanging.set)
    threading.Event().wait()
async def ask():
    global loop, hanging
    loop, hanging = asyncio.get_running_loop(), asyncio.Event()
    asking = loop.create_task(main())
    await hanging.wait()
    asking.cancel()
asyncio.run(ask())
"""
    )
    ended = run(program)
    assert (ended.returncode, ended.stdout) == (0, "hanging\n")


def test_an_interrupt_in_a_handler_ends_the_program() -> None:
    program = (
        OPEN.replace('lambda ctx: "pooled"', "interrupt, inline=True")
        + """
def interrupt(ctx):
    raise KeyboardInterrupt
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert run(program).stdout == "interrupted\n"


def test_a_blocking_peer_does_not_keep_the_interpreter() -> None:
    program = "import roletalk.sync\npeer = roletalk.sync.Peer()\npeer.listen('127.0.0.1')\n"
    ended = run(program)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_is_told_so() -> None:
    program = (
        OPEN
        + """
import os
async def fork():
    await main()
    destination = client.destination("role")
    child = os.fork()
    if child == 0:
        try:
            destination.request("x")
        except roletalk.ClosedError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(await destination.request("x"), flush=True)
    await client.close()
    await worker.close()
asyncio.run(fork())
"""
    )
    ended = run(program, "-W", "ignore")
    told = "The peer belongs to the parent process: make a new one after a fork"
    assert ended.stdout.splitlines() == ["pooled", told, "pooled"]
    assert ended.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_process_can_have_peers_of_its_own() -> None:
    program = (
        OPEN
        + """
import os
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
child = os.fork()
if child == 0:
    asyncio.run(main())
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    )
    ended = run(program, "-W", "ignore")
    assert ended.stdout.splitlines() == ["pooled", "pooled", "0"]


def test_the_example_of_the_documentation() -> None:
    assert roletalk.__doc__ is not None
    program = roletalk.__doc__.split("::")[1].split("Start with")[0]
    compile("\n".join(line[4:] for line in program.splitlines()), "example", "exec")
