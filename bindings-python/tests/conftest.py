"""Peers that find each other over real sockets."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from typing import Any, Callable

import pytest

import roletalk

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

LIMIT = 300.0
"""Seconds; only there to fail, under valgrind on a busy machine as well."""

OPTIONAL = {
    "orjson": "its codec is not tested",
    "uvloop": "no test runs on its loop",
}
"""What is tested where it is installed; ``REQUIRE=orjson,uvloop`` demands it."""


def _left_out() -> dict[str, str]:
    """What of the optional modules is not here, and what that means."""
    return {
        name: f"not installed for {sys.executable}: {consequence}"
        for name, consequence in OPTIONAL.items()
        if importlib.util.find_spec(name) is None
    }


def pytest_configure(config: pytest.Config) -> None:
    required = os.environ.get("REQUIRE", "").split(",")
    for name, reason in _left_out().items():
        if name in required:
            raise pytest.UsageError(f"required, but not here: {name}: {reason}")
    if sys.version_info < (3, 10):
        # The last pytest-asyncio for CPython 3.9 makes event loops that it never closes.
        config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in _left_out().items():
        terminalreporter.write_line(f"left out: {name}: {reason}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that hangs fails, in several times the limit of a single wait."""
    if config.pluginmanager.hasplugin("timeout"):
        for item in items:
            item.add_marker(pytest.mark.timeout(2 * LIMIT))


LoopFactories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def loop_factories() -> LoopFactories:
    factories: LoopFactories = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.hookimpl(optionalhook=True)  # The last pytest-asyncio for CPython 3.9 does not have it.
def pytest_asyncio_loop_factories() -> LoopFactories:
    """Every test that needs a loop runs on both, where there are both."""
    return loop_factories()


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


def patient(*, limits: roletalk.Limits | None = None, **options: Any) -> roletalk.Peer:
    """A peer that leaves a slow machine time for the handshake."""
    limits = limits or roletalk.Limits()
    if limits.handshake_timeout is None:
        limits = replace(limits, handshake_timeout=LIMIT)
    return roletalk.Peer(limits=limits, **options)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes pairs, with options for the two peers."""
    peers: list[roletalk.Peer] = []

    async def make(worker: Any = None, client: Any = None) -> Pair:
        first = patient(name="worker", **(worker or {}))
        second = patient(name="client", **(client or {}))
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


@dataclass
class Chain:
    """A client, a middle that serves the role "middle", and an end that serves "end"."""

    client: roletalk.Peer
    middle: roletalk.Peer
    end: roletalk.Peer
    to_middle: roletalk.Destination
    """The client's way to the middle."""
    to_end: roletalk.Destination
    """The middle's way to the end."""

    @property
    def first(self) -> roletalk.Role:
        return self.middle.role("middle")

    @property
    def last(self) -> roletalk.Role:
        return self.end.role("end")

    @property
    def peers(self) -> list[roletalk.Peer]:
        return [self.client, self.middle, self.end]


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    """Three peers in a row."""
    # Not friendly: the client is not to know the end.
    peers = [patient(name=name, friendly=False) for name in ("client", "middle", "end")]
    client, middle, end = peers
    middle.role("middle")
    end.role("end")
    await client.connect((await middle.listen("127.0.0.1")).url)
    await middle.connect((await end.listen("127.0.0.1")).url)
    to_middle, to_end = client.destination("middle"), middle.destination("end")
    await to_middle.wait_ready(LIMIT)
    await to_end.wait_ready(LIMIT)
    yield Chain(client, middle, end, to_middle, to_end)
    for peer in peers:
        await peer.close()


@pytest.fixture(params=["worker", "client"])
def plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the peers that know no more than the originals."""
    side: str = request.param
    make = roletalk._engine.Engine

    def engine(*, name: str, **options: Any) -> Any:
        return make(name=name, extensions=name != side, **options)

    monkeypatch.setattr(roletalk._engine, "Engine", engine)
    return side


def is_clean(*peers: roletalk.Peer) -> bool:
    """Whether nothing is left of any request."""
    return not any(size for peer in peers for size in peer._engine.sizes().values())


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something has come true that no event tells of.

    Looks after each turn of the loop first, then less and less often: the other side may need the
    processor.
    """

    async def turns() -> None:
        looks = 0
        while not condition():
            looks += 1
            await asyncio.sleep(min(looks // 100 * 0.001, 0.02))

    await asyncio.wait_for(turns(), LIMIT)


async def turned_away(to: roletalk.Destination, unit: roletalk.Unit) -> roletalk.RejectedError:
    """Asks a unit that leaves until it turns a request away.

    What reaches it before its fence is answered is handled, and only the unit knows when that is.
    """

    async def asks() -> roletalk.RejectedError:
        while True:
            try:
                await to.request("echo", to=unit)
            except roletalk.RejectedError as error:
                return error

    return await asyncio.wait_for(asks(), LIMIT)


async def event_of(events: roletalk.Events, kind: type) -> Any:
    """The next event of a kind."""

    async def search() -> Any:
        async for event in events:
            if isinstance(event, kind):
                return event
        raise AssertionError("the events have ended")

    return await asyncio.wait_for(search(), LIMIT)
