from __future__ import annotations

import asyncio
from typing import Any

import pytest

import roletalk

from .conftest import LIMIT, Pair, event_of, patient, until


async def test_events_of_units_and_destinations() -> None:
    async with patient(name="client") as client:
        events = client.events()
        worker = patient(name="worker")
        worker.role("role")
        client.destination("role")
        listener = await worker.listen("127.0.0.1")
        unit = await client.connect(listener.url, permanent=False)
        opened = await event_of(events, roletalk.UnitOpened)
        assert opened == roletalk.UnitOpened(unit)
        assert (await event_of(events, roletalk.DestinationOpened)).role == "role"
        assert (await event_of(events, roletalk.DestinationGained)).role == "role"
        await worker.close()
        closed = await event_of(events, roletalk.ConnectionClosed)
        assert isinstance(closed.reason, roletalk.ConnectionLostError)
        assert (await event_of(events, roletalk.UnitClosed)).unit is unit
        await unit.wait_closed()


async def test_callbacks(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    everything: list[Any] = []
    units: list[Any] = []
    pair.client.on()(everything.append)

    @pair.client.on(roletalk.UnitOpened, roletalk.UnitClosed)
    def changed(event: Any) -> None:
        units.append(event)
        raise ValueError("not mine")

    pair.client.destination("role")
    pair.role("role")
    await until(lambda: len(everything) >= 2)
    assert units == []
    await pair.unit.close()
    assert units == [roletalk.UnitClosed(pair.unit)]
    assert "a callback for UnitClosed failed" in caplog.text


async def test_a_slow_subscriber_misses_the_oldest(pair: Pair) -> None:
    events = pair.client.events()
    for n in range(1030):
        pair.client._host.emit(roletalk.DestinationOpened(str(n)))
    assert await events.__anext__() == roletalk.Missed(6)
    assert await events.__anext__() == roletalk.DestinationOpened("6")


async def test_events_end_with_the_peer(pair: Pair) -> None:
    events, closed = pair.client.events(), pair.client.events()
    closed.close()
    assert [event async for event in closed] == []
    await pair.client.close()
    kinds = [type(event) async for event in events]
    assert roletalk.UnitClosed in kinds
    assert [event async for event in pair.client.events()] == []


async def test_only_one_waits_for_a_subscription(pair: Pair) -> None:
    events = pair.client.events()
    first = asyncio.ensure_future(events.__anext__())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await events.__anext__()
    pair.client.destination("role")
    pair.role("role")
    assert await asyncio.wait_for(first, LIMIT)
