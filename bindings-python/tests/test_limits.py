from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Connect, event_of, until


def test_every_limit_is_known_to_the_engine() -> None:
    for field in fields(roletalk.Limits):
        roletalk.Peer(limits=roletalk.Limits(**{field.name: 1}))
    with pytest.raises(ValueError):
        roletalk.Peer(limits=roletalk.Limits(request_timeout=-1))
    with pytest.raises(ValueError):
        roletalk.Peer(reconnect_cap=0)
    with pytest.raises(ValueError):
        roletalk.Peer(threads=0)


async def test_too_many_running_handlers(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_handlers=2)})
    go = asyncio.Event()
    events = pair.worker.events()

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> None:
        await go.wait()

    destination = await pair.destination()
    futures = [destination.request("wait") for _ in range(4)]
    # Two are handled, two came with them and are too many.
    outcomes = asyncio.gather(*futures[2:], return_exceptions=True)
    refused = await asyncio.wait_for(outcomes, LIMIT)
    assert [type(error) for error in refused] == [roletalk.RejectedError] * 2
    assert (await event_of(events, roletalk.SlowConsumer)).dropped == 1
    # Nothing is read for a moment.
    late = destination.request("wait")
    go.set()
    await asyncio.gather(*futures[:2], late)


async def test_the_default_timeout(connect: Connect) -> None:
    pair = await connect(client={"limits": roletalk.Limits(request_timeout=0.02)})

    @pair.role().on_request("never")
    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    destination = await pair.destination()
    with pytest.raises(roletalk.TimeoutError):
        await destination.request("never")


async def test_a_peer_that_sends_and_never_reads(connect: Connect) -> None:
    limits = roletalk.Limits(owed_per_connection=10_000, queue_per_connection=10_000)
    pair = await connect(worker={"limits": limits})
    pair.role()
    client = roletalk.Peer()
    unit = await client.connect(pair.listener.url)
    destination = client.destination("role")
    await destination.wait_ready(LIMIT)
    # The client's loop is this one, so that it does read; the worker must get through all the same.
    futures = [destination.request("x" * 500, to=unit) for _ in range(2000)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {roletalk.RejectedError}
    await until(lambda: pair.worker.stats().queued == 0)
    await client.close()
