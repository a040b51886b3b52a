"""Peers that find each other over real sockets."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List

import pytest

import roletalk

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

LIMIT = 10.0
"""Seconds; only there to fail."""


def pytest_configure(config: pytest.Config) -> None:
    if sys.version_info < (3, 10):
        # The last pytest-asyncio for CPython 3.9 makes event loops that it never closes.
        config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")


@pytest.hookimpl(optionalhook=True)  # The last pytest-asyncio for CPython 3.9 does not have it.
def pytest_asyncio_loop_factories() -> Dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test that needs a loop runs on both, where there are both."""
    factories: Dict[str, Callable[[], asyncio.AbstractEventLoop]]
    factories = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@dataclass
class Pair:
    """A worker that listens, and a client that is connected to it."""

    worker: roletalk.Peer
    client: roletalk.Peer
    listener: roletalk.Listener
    unit: roletalk.Unit

    def role(self, name: str = "role") -> roletalk.Role:
        return self.worker.role(name)

    async def destination_of(self, name: str) -> roletalk.Destination:
        """A destination whose role answers `echo`."""
        self.role(name).on_request("echo", lambda ctx: ctx.data, inline=True)
        return await self.destination(name)

    async def destination(self, name: str = "role") -> roletalk.Destination:
        destination = self.client.destination(name)
        await destination.wait_ready(LIMIT)
        return destination


Connect = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes pairs, with options for the two peers."""
    peers: List[roletalk.Peer] = []

    async def make(worker: Any = None, client: Any = None) -> Pair:
        first = roletalk.Peer(name="worker", **(worker or {}))
        second = roletalk.Peer(name="client", **(client or {}))
        peers.extend([second, first])
        listener = await first.listen("127.0.0.1")
        unit = await second.connect(listener.url)
        return Pair(first, second, listener, unit)

    yield make
    for peer in peers:
        await peer.close()


@pytest.fixture
async def pair(connect: Connect) -> Pair:
    return await connect()


async def until(condition: Callable[[], bool]) -> None:
    """Gives the loop turns until something has come true."""

    async def turns() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(turns(), LIMIT)


async def event_of(events: roletalk.Events, kind: type) -> Any:
    """The next event of a kind."""

    async def search() -> Any:
        async for event in events:
            if isinstance(event, kind):
                return event
        raise AssertionError("the events have ended")

    return await asyncio.wait_for(search(), LIMIT)
