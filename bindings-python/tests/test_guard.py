"""A handler that blocks the loop costs no connection."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

import roletalk

from .conftest import LIMIT

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


@pytest.mark.skipif(os.name == "nt", reason="there the engine owns no sockets")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["python", "interpreter's lock"])
async def test_pings_are_answered_while_a_handler_blocks(how: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WORKER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        async with roletalk.Peer() as client:
            unit = await client.connect(url)
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            answer = destination.request("block", how)
            assert await process.stdout.readline() == b"blocked\n"
            # What comes meanwhile waits.
            meanwhile = [destination.request("echo", n) for n in range(100)]
            assert unit.round_trip is None
            await asyncio.wait_for(_round_trip(unit), 20)
            assert unit.is_open and not answer.done()
            process.stdin.write(b"\n")
            assert await asyncio.wait_for(answer, LIMIT) == "unblocked"
            assert await asyncio.gather(*meanwhile) == list(range(100))
            assert client.stats().reconnects == 0
    finally:
        process.kill()
        await process.wait()


async def _round_trip(unit: roletalk.Unit) -> None:
    """Waits for the answer to a ping: the first one is sent after five seconds."""
    while unit.round_trip is None:
        await asyncio.sleep(0.1)
