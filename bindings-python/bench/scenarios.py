"""What is measured. Each runs on the client for about so many seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Callable

from systems import Client

SMALL = b"x" * 32
CHUNK = b"x" * 65536
MIB = 1 << 20


@dataclass
class Result:
    count: float
    """Requests that were answered, messages or MiB that arrived."""
    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Of each request, in seconds, when they were made one by one."""


Scenario = Callable[[Client, float], Awaitable[Result]]


def requests(in_flight: int) -> Scenario:
    async def run(client: Client, seconds: float) -> Result:
        clock = time.perf_counter
        start = clock()
        end = start + seconds
        count = 0
        latencies: list[float] = []

        async def worker() -> None:
            nonlocal count
            request = client.request
            while clock() < end:
                if await request(SMALL) != SMALL:
                    raise RuntimeError("the answer is wrong")
                count += 1

        async def worker_alone() -> None:
            nonlocal count
            request = client.request
            before = clock()
            while before < end:
                if await request(SMALL) != SMALL:
                    raise RuntimeError("the answer is wrong")
                count += 1
                after = clock()
                latencies.append(after - before)
                before = after

        if in_flight == 1:
            await worker_alone()
        else:
            await asyncio.gather(*(worker() for _ in range(in_flight)))
        return Result(count, clock() - start, latencies)

    return run


async def stream(client: Client, seconds: float) -> Result:
    clock = time.perf_counter
    start = clock()
    end = start + seconds
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while clock() < end:
            sent += len(CHUNK)
            yield CHUNK

    received = await client.upload(chunks)
    if received != sent:
        raise RuntimeError(f"{sent} bytes were sent, {received} came")
    return Result(received / MIB, clock() - start)


async def messages(client: Client, seconds: float) -> Result:
    clock = time.perf_counter
    start = clock()
    sent = await client.messages(SMALL, start + seconds)
    return Result(sent, clock() - start)


SCENARIOS: dict[str, Scenario] = {
    "1 in flight": requests(1),
    "16 in flight": requests(16),
    "64 in flight": requests(64),
    "256 in flight": requests(256),
    "messages": messages,
    "stream, MiB": stream,
}
