"""A handler that blocks the loop costs no connection."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import Callable

import pytest

import roletalk

from .conftest import LIMIT, loop_factories, until

WORKER = """
import asyncio, ctypes, os, sys, roletalk

interpreter = ctypes.PyDLL(None)

def block(ctx):
    print("blocked", flush=True)
    if ctx.data == "python":
        os.read(0, 1)
    else:
        # Called through PyDLL, it keeps the interpreter's lock.
        interpreter.read(0, ctypes.create_string_buffer(1), 1)
    return "unblocked"

async def main():
    async with roletalk.Peer(name="worker") as peer:
        role = peer.role("role")
        role.on_request("block", block, inline=True)
        role.on_request("echo", lambda ctx: ctx.data, inline=True)
        print((await peer.listen("127.0.0.1")).url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

HOW = ["python", "interpreter's lock"]


async def pings_are_answered(how: str) -> None:
    command = [sys.executable, "-c", WORKER]
    # Not asyncio's: loops in threads cannot have those.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None and process.stdout is not None
    readline = process.stdout.readline
    try:
        url = (await asyncio.to_thread(readline)).decode().strip()
        async with roletalk.Peer() as client:
            unit = await client.connect(url)
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            answer = destination.request("block", how, timeout=LIMIT)
            assert await asyncio.to_thread(readline) == b"blocked\n"
            # What comes meanwhile waits.
            meanwhile = [destination.request("echo", n, timeout=LIMIT) for n in range(100)]
            assert unit.round_trip is None
            # The answer to a ping, of which the first is sent after five seconds.
            await until(lambda: unit.round_trip is not None)
            assert unit.is_open and not answer.done()
            process.stdin.write(b"\n")
            assert await asyncio.wait_for(answer, LIMIT) == "unblocked"
            assert await asyncio.gather(*meanwhile) == list(range(100))
            assert client.stats().reconnects == 0
    finally:
        process.kill()
        process.communicate()


Checks = dict[tuple[str, str], "Future[None]"]


def run(factory: Callable[[], asyncio.AbstractEventLoop], how: str) -> None:
    loop = factory()
    try:
        loop.run_until_complete(pings_are_answered(how))
    finally:
        loop.close()


@pytest.fixture(scope="module")
def checks() -> Iterator[Checks]:
    """All of them side by side, each in a thread: they spend their time waiting for a ping."""
    loops = loop_factories()
    with ThreadPoolExecutor(len(loops) * len(HOW)) as pool:
        yield {(name, how): pool.submit(run, loops[name], how) for name, how in product(loops, HOW)}


@pytest.mark.skipif(os.name == "nt", reason="there the engine owns no sockets")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("loop", loop_factories())
def test_pings_are_answered_while_a_handler_blocks(checks: Checks, loop: str, how: str) -> None:
    checks[loop, how].result()
