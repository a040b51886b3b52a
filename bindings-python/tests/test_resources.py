"""What a peer has taken is gone when `close` has returned, and when its loop has ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import roletalk
from roletalk import sync

from .conftest import LIMIT, Connect, patient, until

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counted where it is Linux")


def taken() -> Counter[str]:
    """Open descriptors by what they are, and this package's threads by their names."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        # The one that lists them is gone.
        with contextlib.suppress(OSError):
            found[entry.readlink().name.split("[")[0]] += 1
    names = [thread.name for thread in threading.enumerate()]
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    # Others are those in which loops look names up.
    found.update(f"thread {name}" for name in names if name.startswith("roletalk"))
    return found


def settled(before: Counter[str]) -> None:
    """Waits until no more is taken than before: the system shows a thread that has ended a little longer."""
    since = time.monotonic()
    while more := taken() - before:
        assert time.monotonic() - since < LIMIT, more
        time.sleep(0.001)


def timers() -> int:
    """Timers that are still to do something."""
    # Those of uvloop are not among them.
    handles = [each for each in gc.get_objects() if isinstance(each, asyncio.TimerHandle)]
    return sum(not handle.cancelled() for handle in handles)


async def open_pair() -> tuple[roletalk.Peer, roletalk.Peer]:
    worker, client = patient(name="worker"), patient(name="client")
    role = worker.role("role")
    role.on_request("thread", lambda ctx: ctx.data)

    @role.on_request("task")
    async def task(ctx: roletalk.Context) -> Any:
        return ctx.data

    await client.connect((await worker.listen("127.0.0.1")).url)
    destination = client.destination("role")
    await destination.wait_ready(LIMIT)
    for event in ("thread", "task"):
        assert await destination.request(event, 1, timeout=LIMIT) == 1
    return worker, client


@linux
async def test_nothing_is_left_of_a_hundred_pairs_one_after_another() -> None:
    before, pending = taken(), timers()
    for _ in range(100):
        for peer in await open_pair():
            await peer.close()
        assert timers() == pending
        settled(before)


@linux
async def test_nothing_is_left_of_a_hundred_pairs_at_the_same_time() -> None:
    before, pending = taken(), timers()
    pairs = [await open_pair() for _ in range(100)]
    # One for all of them.
    assert taken()["thread roletalk-guard"] == 1
    for worker, client in pairs:
        await worker.close()
        await client.close()
    assert timers() == pending
    settled(before)
    # They are still referenced.
    assert all(worker.is_closed and client.is_closed for worker, client in pairs)


@linux
def test_nothing_is_left_of_blocking_peers() -> None:
    def use() -> None:
        with sync.Peer("worker") as worker, sync.Peer("client") as client:
            worker.role("role").on_request("x", lambda ctx: ctx.data)
            client.connect(worker.listen("127.0.0.1").url)
            destination = client.destination("role")
            destination.wait_ready(LIMIT)
            assert destination.request("x", 1, timeout=LIMIT) == 1

    before = taken()
    for _ in range(10):
        use()
        settled(before)


@linux
def test_nothing_is_left_when_the_loop_ends() -> None:
    """Peers that nobody has closed, as `asyncio.run` leaves them."""
    pairs: list[Any] = []

    async def main() -> None:
        pairs.extend([await open_pair() for _ in range(3)])

    before = taken()
    asyncio.run(main())
    # They are referenced.
    assert all(peer.is_closed for pair in pairs for peer in pair)
    settled(before)


@linux
async def test_closing_that_is_cancelled_lets_go_of_everything_at_once() -> None:
    before = taken()
    worker, client = await open_pair()
    closing = [asyncio.ensure_future(peer.close()) for peer in (worker, client)]
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait(closing)
    await until(lambda: not taken() - before)


async def test_connections_that_come_while_a_peer_closes(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        peer = roletalk.Peer()
        listener = await peer.listen("127.0.0.1")
        closing = asyncio.ensure_future(peer.close())
        await asyncio.sleep(0)
        # It may be refused already, or is accepted by nobody.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", listener.port)).close()
        await closing
    assert [record for record in caplog.records if record.name == "asyncio"] == []


LEFT = """
import asyncio, sys, threading, roletalk
try:
    import uvloop
except ImportError:
    uvloop = None

async def main():
    peer = roletalk.Peer(name="left")
    peer.role("role").on_request("x", lambda ctx: "here", inline=True)
    print((await peer.listen("127.0.0.1")).url, flush=True)
    await go()
    return peer

async def go():
    # Not the default executor's thread, which would be waited for.
    loop, read = asyncio.get_running_loop(), asyncio.Event()
    def wait():
        sys.stdin.readline()
        loop.call_soon_threadsafe(read.set)
    threading.Thread(target=wait, daemon=True).start()
    await read.wait()

loop = uvloop.new_event_loop() if sys.argv[1] == "uvloop" else asyncio.new_event_loop()
if sys.argv[2] == "run":
    # As `asyncio.run` does.
    peer = loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
else:
    peer = loop.run_until_complete(main())
loop.close()
print("ended", flush=True)
threading.Thread(target=sys.stdin.readline).start()
"""


@pytest.mark.skipif(os.name == "nt", reason="there the engine owns no sockets")
@pytest.mark.parametrize("how", ["run", "loop.close"])
async def test_a_peer_is_gone_with_its_loop(how: str) -> None:
    """Its process lives on, with the peer referenced."""
    kind = type(asyncio.get_running_loop()).__module__.split(".")[0]
    command = [sys.executable, "-c", LEFT, kind, how]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        async with roletalk.Peer() as client:
            url = (await asyncio.to_thread(process.stdout.readline)).strip()
            unit = await client.connect(url)
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            assert await destination.request("x", timeout=LIMIT) == "here"
            process.stdin.write("\n")
            process.stdin.flush()
            assert await asyncio.to_thread(process.stdout.readline) == "ended\n"
            if how == "loop.close":
                # Nothing tells of that before something comes; a ping does.
                with pytest.raises(roletalk.ConnectionLostError):
                    await destination.request("x", timeout=LIMIT)
            await asyncio.wait_for(unit.wait_closed(), LIMIT)
            assert process.poll() is None
    finally:
        _, errors = process.communicate("\n")
    said = "" if how == "run" else "the event loop of peer"
    assert (process.returncode, errors[: len(said) or None]) == (0, said)


END = """
import asyncio, gc, sys, roletalk

async def main():
    global worker, client, kept
    # A busy machine is no fault.
    asyncio.get_running_loop().slow_callback_duration = 300
    worker, client = roletalk.Peer(name="worker"), roletalk.Peer(name="client")
    role = worker.role("role")

    @role.on_request("never")
    async def never(ctx):
        await asyncio.Event().wait()

    @role.on_request("tidy")
    async def tidy(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            print("tidied up", flush=True)

    @role.on_readable("up")
    async def up(ctx):
        await ctx.accept().read(1)
        await asyncio.Event().wait()

    @role.on_writable("down")
    async def down(ctx):
        try:
            async with ctx.accept() as stream:
                while True:
                    await stream.write(bytes(1 << 20))
        except roletalk.ConnectionLostError:
            # The client is closed first.
            pass

    listener = await worker.listen("127.0.0.1")
    await client.connect(listener.url)
    # One that is still dialed.
    free = await worker.listen("127.0.0.1")
    free.close()
    try:
        await client.connect(free.url)
    except (roletalk.ConnectFailedError, roletalk.ConnectionLostError):
        pass
    destination = client.destination("role")
    await destination.wait_ready()
    for _ in range(100):
        destination.request("never")
    destination.request("tidy")
    kept = [await destination.readable("down"), await destination.writable("up")]
    await kept[0].read(10)
    await kept[1].write(b"xy")
    survey = destination.survey("never")
    kept += [survey, client.events(), destination.request("never")]
    if sys.argv[1] == "waiting":
        kept += [asyncio.ensure_future(client.destination("other").wait_ready())]
        kept += [asyncio.ensure_future(destination.request("never"))]
        kept += [asyncio.ensure_future(survey.all())]
    while sum(unit.running for unit in worker.stats().units.values()) < 105:
        await asyncio.sleep(0)
    if sys.argv[1] == "closed":
        await client.close()
        await worker.close()

if sys.argv[1] == "loop.close":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
else:
    asyncio.run(main())
if sys.argv[1] != "kept":
    del worker, client, kept
gc.collect()
print("ended", flush=True)
"""


@pytest.mark.parametrize("how", ["open", "kept", "waiting", "closed"])
@pytest.mark.parametrize("mode", ["plain", "dev"])
def test_a_regular_end_says_nothing(how: str, mode: str) -> None:
    options = ["-X", "dev", "-W", "error"] if mode == "dev" else ["-W", "error"]
    ended = subprocess.run(
        [sys.executable, *options, "-c", END, how],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout == "tidied up\nended\n"


async def test_failures_that_nobody_looks_at_are_told(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await connect()

    @pair.role().on_request("fail")
    async def fail(ctx: roletalk.Context) -> None:
        raise roletalk.RejectedError("a real failure")

    destination = await pair.destination()
    future = destination.request("fail", timeout=LIMIT)
    await until(future.done)
    del future
    gc.collect()
    assert "a real failure" in caplog.text and "never retrieved" in caplog.text
