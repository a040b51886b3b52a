"""One process of a pair: ``child.py LOOP SYSTEM [ADDRESS]``, a server without an address.

Prints its address, or an empty line when it is connected; then reads commands, one a line, and answers
each with a line of JSON: ``cpu``, or ``SECONDS SCENARIO``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from scenarios import SCENARIOS
from systems import SYSTEMS, Client


async def perform(client: Client | None, command: str) -> dict[str, Any]:
    if command == "cpu":
        return {"cpu": time.process_time()}
    assert client is not None
    seconds, scenario = command.split(" ", 1)
    result = await SCENARIOS[scenario](client, float(seconds))
    latencies = sorted(result.latencies)
    return {
        "count": result.count,
        "seconds": result.seconds,
        "p50": latencies[len(latencies) // 2] if latencies else None,
        "p99": latencies[len(latencies) * 99 // 100] if latencies else None,
    }


async def main(name: str, address: str | None = None) -> None:
    system = SYSTEMS[name]
    client = None
    if address is None:
        print(await system.serve(), flush=True)
    else:
        client = await system.connect(address)
        print(flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        print(json.dumps(await perform(client, line.decode().strip())), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(main(*sys.argv[2:]))
