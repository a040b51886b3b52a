from __future__ import annotations

import asyncio
from typing import Any

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Connect, Pair, event_of, patient, until


async def test_messages_keep_their_order(pair: Pair) -> None:
    got: list[Any] = []
    done = asyncio.Event()

    @pair.role().on_message("line")
    async def line(ctx: Context) -> None:
        got.append(ctx.data)
        if ctx.data == 999:
            done.set()

    destination = await pair.destination()
    for n in range(1000):
        await destination.send("line", n)
    await asyncio.wait_for(done.wait(), LIMIT)
    assert got == list(range(1000))


async def test_a_broadcast_reaches_every_unit(connect: Connect) -> None:
    pair = await connect()
    second = patient(name="second")
    await second.connect(pair.listener.url)
    got: list[str] = []
    names = {peer: peer.role("all") for peer in (pair.client, second)}
    for peer, role in names.items():
        role.on_message("news", lambda ctx, peer=peer: got.append(peer.name), inline=True)
    everyone = pair.worker.destination("all")
    await until(lambda: len(everyone.units) == 2)
    assert await everyone.broadcast("news") == 2
    await until(lambda: len(got) == 2)
    assert sorted(got) == ["client", "second"]
    await second.close()


async def test_messages_to_disabled_roles_are_dropped(pair: Pair) -> None:
    got: list[Any] = []
    role = pair.role()
    role.on_message("line", lambda ctx: got.append(ctx.data), inline=True)
    role.on_request("sync", lambda ctx: None, inline=True)
    pair.worker.role("sync").on_request("sync", lambda ctx: None, inline=True)
    destination = await pair.destination()
    sync = await pair.destination("sync")
    role.disable()
    assert not role.is_active
    await destination.send("line", 1, to=pair.unit)
    await sync.request("sync")
    role.enable()
    await destination.wait_ready(LIMIT)
    await destination.send("line", 2, to=pair.unit)
    await sync.request("sync")
    assert got == [2]


async def test_a_failing_handler_is_reported(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    events = pair.worker.events()

    @pair.role().on_message("line")
    async def line(ctx: Context) -> None:
        raise ValueError("no")

    destination = await pair.destination()
    await destination.send("line")
    event = await event_of(events, roletalk.HandlerFailed)
    assert isinstance(event.error, ValueError)
    assert event.unit.name == "client"
    assert (event.role, event.event) == ("role", "line")
    assert "the handler of role/line failed" in caplog.text


async def test_sending_waits_for_room(connect: Connect) -> None:
    pair = await connect(client={"limits": roletalk.Limits(queue_per_connection=10_000)})
    got: list[int] = []
    role = pair.role()
    role.on_message("chunk", lambda ctx: got.append(len(ctx.data)), inline=True)
    role.on_request("sync", lambda ctx: len(got), inline=True)
    destination = await pair.destination()
    for _ in range(100):
        await destination.send("chunk", b"x" * 9_000)
    assert await destination.request("sync") == 100
    assert set(got) == {9_000}


async def test_sending_to_one_that_is_gone(pair: Pair) -> None:
    pair.role()
    destination = await pair.destination()
    await pair.unit.close()
    with pytest.raises(roletalk.ConnectionLostError):
        await destination.send("line", to=pair.unit)
    assert not pair.unit.is_open
    assert destination.units == []


async def test_bad_arguments(pair: Pair) -> None:
    pair.role()
    destination = await pair.destination()
    with pytest.raises(roletalk.InvalidArgumentError):
        await destination.send("x" * 65_536)
    with pytest.raises(TypeError):
        await destination.send(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another peer"):
        await destination.send("x", to=pair.worker.units[0])
    with pytest.raises(ValueError, match="another peer"):
        destination.request("x", to=pair.worker.units[0])
    with pytest.raises(roletalk.InvalidArgumentError):
        pair.client.destination("")
    with pytest.raises(roletalk.InvalidArgumentError):
        pair.worker.role("x" * 65_536)
