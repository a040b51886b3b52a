"""What no unit has begun goes on to the next one, restarts lose nothing, and units are waited for."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context

from .conftest import LIMIT, Chain, Connect, is_clean, patient, turned_away, until
from .test_cancel import Handlers

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
async def peers() -> AsyncIterator[list[roletalk.Peer]]:
    """Peers to be closed at the end."""
    made: list[roletalk.Peer] = []
    yield made
    for peer in made:
        await peer.close()


def a_peer(peers: list[roletalk.Peer], name: str, **options: Any) -> roletalk.Peer:
    # Not friendly, so that each is connected to whom it connects to.
    peer = patient(name=name, friendly=False, **options)
    peers.append(peer)
    return peer


async def join(client: roletalk.Peer, service: roletalk.Peer) -> roletalk.Unit:
    """Connects the client to the service, once."""
    listener = await service.listen("127.0.0.1")
    return await client.connect(listener.url, permanent=False)


@pytest.mark.parametrize("way", ["task", "inline", "pool"])
async def test_a_rolling_restart_loses_nothing(peers: list[roletalk.Peer], way: str) -> None:
    client = a_peer(peers, "client")
    to = client.destination("role")
    handled: Counter[int] = Counter()

    async def service() -> roletalk.Peer:
        made = a_peer(peers, "service")
        role = made.role("role")

        def at_once(ctx: Context) -> int:
            handled[ctx.data] += 1
            return ctx.data

        async def later(ctx: Context) -> int:
            handled[ctx.data] += 1
            # Others come between.
            await asyncio.sleep(0)
            return ctx.data

        if way == "task":
            role.on_request("count", later)
        else:
            role.on_request("count", at_once, inline=way == "inline")
        await join(client, made)
        return made

    services = [await service() for _ in range(3)]
    await until(lambda: len(to.units) == 3)
    ids, stopped = count(), False
    answered: list[int] = []

    async def ask() -> None:
        while not stopped:
            number = next(ids)
            assert await to.request("count", number, timeout=LIMIT) == number
            answered.append(number)

    asking = [asyncio.ensure_future(ask()) for _ in range(32)]
    for _ in range(6):
        services.append(await service())
        await until(lambda: len(to.units) == 4)
        before = len(answered)
        assert await services.pop(0).drain(LIMIT)
        await until(lambda: len(answered) > before + 100)
    stopped = True
    await asyncio.gather(*asking)
    assert sorted(handled) == sorted(answered)
    assert set(handled.values()) == {1}
    await until(lambda: is_clean(client))


async def reads_nothing(listener: roletalk.Listener, role: str) -> asyncio.StreamWriter:
    """A unit that serves a role, and reads nothing that is sent to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    writer.write(f"GET / HTTP/1.1\r\nHost: stuck\r\n{upgrade}".encode())
    writer.write(b"Sec-WebSocket-Key: c3R1Y2sgc3R1Y2sgc3R1Yw==\r\n\r\n")
    assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
    meta = {"os": "", "runtime": "", "time": 1, "uptime": 1, "protocol": "2.0.0"}
    names = {"id": "stuck", "name": "stuck", "friendly": True, "tags": {}}
    confirm = b"\x03" + json.dumps({**names, "roles": [role], "meta": meta}).encode()
    # A mask of zeros changes nothing.
    writer.write(b"\x82\xfe" + len(confirm).to_bytes(2, "big") + bytes(4) + confirm)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


@pytest.mark.parametrize("chosen", [False, True])
async def test_messages_in_the_queue_of_a_unit_that_is_lost_go_to_another(
    peers: list[roletalk.Peer], chosen: bool
) -> None:
    client = a_peer(peers, "client", balance="round_robin")
    to = client.destination("role")
    writer = await reads_nothing(await client.listen("127.0.0.1"), "role")
    await asyncio.wait_for(to.wait_ready(), LIMIT)
    (stuck,) = to.units
    got: list[int] = []
    service = a_peer(peers, "service")
    service.role("role").on_message("m", lambda ctx: got.append(int(ctx.data[:8])), inline=True)
    sent: list[int] = []

    async def send(number: int) -> None:
        await to.send("m", b"%08d" % number + bytes(100_000), to=stuck if chosen else None)
        sent.append(number)

    async def send_all() -> None:
        for number in range(300):
            await send(number)
            await asyncio.sleep(0)

    sending = asyncio.ensure_future(send_all())
    await until(lambda: stuck.stats().connections[0].queued > 1 << 20)
    await join(client, service)
    await until(lambda: len(to.units) == 2)
    queued = len(sent)
    writer.transport.abort()
    await until(lambda: len(to.units) == 1)
    if chosen:
        with pytest.raises(roletalk.Error):
            await asyncio.wait_for(sending, LIMIT)
        await to.send("m", b"99999999")
        await until(lambda: 99999999 in got)
        assert got == [99999999]
        return
    await asyncio.wait_for(sending, LIMIT)
    await until(lambda: 299 in got)
    moved = [number for number in got if number < queued]
    assert len(moved) >= 5 and moved == sorted(moved) and moved[-1] == queued - 1


@dataclass
class Two:
    """Two services, of which the first rejects as not handled what the second one handles, and a client."""

    client: roletalk.Peer
    first: roletalk.Peer
    second: roletalk.Peer
    to: roletalk.Destination
    held: Handlers
    units: dict[str, roletalk.Unit]

    def rerouted(self) -> int:
        return sum(unit.stats().requests_rerouted for unit in self.client.units)


@pytest.fixture
async def two(peers: list[roletalk.Peer]) -> Two:
    client, first, second = (a_peer(peers, name) for name in ("client", "first", "second"))
    first.role("role")
    role, held = second.role("role"), Handlers()
    role.on_request("hold", held)

    @role.on_request("new")
    async def new(ctx: Context) -> Any:
        ctx.set_header("by", "second")
        return ctx.data

    @role.on_request("fail")
    async def fail(ctx: Context) -> None:
        raise roletalk.HandlerError("no", code="NO")

    @role.on_readable("up")
    async def up(ctx: Context) -> None:
        ctx.set_header("by", "second")
        async with ctx.accept("here") as stream:
            assert await stream.read() == b"data"

    @role.on_writable("down")
    async def down(ctx: Context) -> None:
        async with ctx.accept(ctx.data) as stream:
            await stream.write(b"data")

    role.on_writable("held", held)

    @role.on_message("told")
    async def told(ctx: Context) -> None:
        held.begun.append(ctx)

    units = {peer.name: await join(client, peer) for peer in (first, second)}
    to = client.destination("role")
    await until(lambda: len(to.units) == 2)
    return Two(client, first, second, to, held, units)


async def test_what_is_not_handled_goes_on_to_the_next_unit(two: Two) -> None:
    for number in range(8):
        answer = await two.to.call("new", number)
        assert (answer.data, answer.headers["by"]) == (number, "second")
        assert await two.to.request("new", None, timeout=LIMIT, headers={"a": "b"}) is None
        async with two.to.writable("up") as up:
            assert (up.answer, up.headers["by"]) == ("here", "second")
            assert up.unit is two.units["second"]
            await up.write(b"data")
        async with two.to.readable("down", number) as down:
            assert (down.answer, await down.read()) == (number, b"data")
    assert two.rerouted() > 0
    assert two.units["first"].stats().streams == 0
    await until(lambda: is_clean(two.client))


async def test_what_nobody_handles_fails_as_ever(two: Two) -> None:
    for _ in range(4):
        asked: list[Ask] = [two.to.request, two.to.call]
        asked += [lambda event: two.to.readable(event), lambda event: two.to.writable(event)]
        for ask in asked:
            with pytest.raises(roletalk.RejectedError, match='The event "none"') as failed:
                await ask("none")
            assert failed.value.unhandled
    await until(lambda: is_clean(two.client))


async def test_what_a_handler_rejects_goes_nowhere(two: Two) -> None:
    for _ in range(4):
        with pytest.raises(roletalk.RejectedError) as failed:
            await two.to.request("fail", to=two.units["second"])
        assert (failed.value.code, failed.value.unhandled) == ("NO", False)
    assert two.rerouted() == 0


async def test_what_is_for_one_unit_stays_there(two: Two) -> None:
    first = two.units["first"]
    for _ in range(4):
        asked = [two.to.request("new", to=first), two.to.call("new", to=first, wait_for_unit=True)]
        for asking in asked:
            with pytest.raises(roletalk.RejectedError):
                await asking
        for stream in (two.to.readable("down", to=first), two.to.writable("up", to=first)):
            with pytest.raises(roletalk.RejectedError):
                await stream
        answers = await two.to.survey("new").all()
        assert sorted(answer.error is None for answer in answers) == [False, True]
    assert two.rerouted() == 0
    await two.first.close()
    await first.wait_closed()
    for gone in (two.to.request("new", to=first), two.to.send("told", to=first)):
        with pytest.raises(roletalk.ConnectionLostError) as lost:
            await gone
        assert lost.value.unhandled


async def test_giving_up_reaches_the_unit_that_has_it_now(two: Two) -> None:
    for begun in range(1, 9):
        asking = two.to.request("hold") if begun % 2 else asyncio.ensure_future(opened(two))
        await two.held.are_begun(begun)
        assert asking.cancel()
        await two.held.are_ended(begun, "requester")
    with pytest.raises(roletalk.TimeoutError, match=r"\(100 ms\)"):
        for _ in range(2):
            await two.to.request("hold", timeout=0.1)
    await until(lambda: is_clean(two.client, two.second))


async def opened(two: Two) -> roletalk.Readable:
    return await two.to.readable("held")


async def test_what_was_given_up_goes_nowhere(two: Two) -> None:
    for _ in range(4):
        asking = two.to.request("hold")
        asking.cancel()
    # Behind those.
    for _ in range(2):
        await two.to.request("new")
    await until(lambda: is_clean(two.client, two.second))
    assert [ctx.cancel_reason for ctx in two.held.begun] == ["requester"] * len(two.held.ended)
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_handler_that_is_cancelled_gives_up_what_went_on(
    chain: Chain, peers: list[roletalk.Peer]
) -> None:
    other, handlers = a_peer(peers, "other"), Handlers()
    other.role("end").on_request("hold", handlers)
    await join(chain.middle, other)
    await until(lambda: len(chain.to_end.units) == 2)

    @chain.first.on_request("pass on")
    async def pass_on(ctx: Context) -> Any:
        return await chain.to_end.request("hold")

    for begun in range(1, 5):
        asking = chain.to_middle.request("pass on")
        await handlers.are_begun(begun)
        asking.cancel()
        await handlers.are_ended(begun, "requester")
    await until(lambda: is_clean(chain.middle, other))


async def test_what_is_changed_after_the_call_is_sent_as_it_was(two: Two) -> None:
    for _ in range(4):
        values: list[Any] = [{"a": [1]}, [1, 2], bytearray(b"data")]
        asked = [two.to.request("new", value) for value in values]
        values[0]["a"].append(2)
        values[1].clear()
        values[2][:] = b"lost"
        assert await asyncio.gather(*asked) == [{"a": [1]}, [1, 2], b"data"]
    assert two.rerouted() > 0


async def test_what_waits_for_room_is_sent_as_it_was(
    connect: Connect, peers: list[roletalk.Peer]
) -> None:
    pair = await connect(client={"limits": roletalk.Limits(queue_per_connection=1)})
    got: list[Any] = []
    role = pair.role()
    role.on_request("echo", lambda ctx: ctx.data, inline=True)
    role.on_message("told", lambda ctx: got.append(ctx.data), inline=True)
    to = await pair.destination()
    value = ["as it was"]

    async def ask() -> None:
        first = to.request("echo", bytes(1000))
        second = to.request("echo", value)
        assert pair.client._engine.sizes()["parked"] == 1
        await to.send("told", value)
        assert len(await first) == 1000
        assert await second == ["as it was"]

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    assert pair.client._engine.sizes()["room"] == 1
    value[0] = "changed"
    await asking
    await until(lambda: bool(got))
    assert got == [["as it was"]]


async def test_what_waits_for_room_goes_on_when_the_unit_goes(peers: list[roletalk.Peer]) -> None:
    client = a_peer(peers, "client", limits=roletalk.Limits(queue_per_connection=1))
    services = [a_peer(peers, name) for name in ("first", "second")]
    for service in services:
        role = service.role("role")
        role.on_request("name", lambda ctx, name=service.name: name, inline=True)
    units = [await join(client, service) for service in services]
    to = client.destination("role")
    await until(lambda: len(to.units) == 2)
    # Each has something that is not written yet.
    full = [to.request("name", to=unit) for unit in units]
    asked = [to.request("name") for _ in range(2)]
    chosen = to.request("name", to=units[0])
    assert client._engine.sizes()["parked"] == 3
    client._engine.close_unit(units[0]._number)
    assert await asyncio.gather(*asked) == ["second"] * 2
    with pytest.raises(roletalk.ConnectionLostError):
        await chosen
    await asyncio.wait(full)
    assert await full[1] == "second"
    await until(lambda: is_clean(client))


async def test_a_message_goes_to_another_unit_when_its_own_is_gone(two: Two) -> None:
    two.second.role("role")
    two.client._engine.close_unit(two.units["first"]._number)
    for sent in range(1, 5):
        await two.to.send("told")
        await until(lambda sent=sent: len(two.held.begun) == sent)  # type: ignore[misc]


# Waiting for a unit.


def ways(to: roletalk.Destination) -> list[Ask]:
    async def readable(*arguments: Any, **options: Any) -> Any:
        async with to.readable(*arguments, **options) as stream:
            return stream.answer

    async def writable(*arguments: Any, **options: Any) -> Any:
        async with to.writable(*arguments, **options) as stream:
            return stream.answer

    async def call(*arguments: Any, **options: Any) -> Any:
        return (await to.call(*arguments, **options)).data

    return [to.request, call, readable, writable]


def serve_all(peer: roletalk.Peer) -> None:
    role = peer.role("role")
    role.on_request("echo", lambda ctx: ctx.data, inline=True)

    @role.on_writable("echo")
    async def write(ctx: Context) -> None:
        await ctx.accept(ctx.data).finish()

    @role.on_readable("echo")
    async def read(ctx: Context) -> None:
        await ctx.accept(ctx.data).read()


@pytest.mark.parametrize("by_default", [False, True])
async def test_waiting_for_a_unit(peers: list[roletalk.Peer], by_default: bool) -> None:
    client, service = a_peer(peers, "client"), a_peer(peers, "service")
    to = client.destination("role", wait_for_unit=by_default)
    option = {} if by_default else {"wait_for_unit": True}
    value = ["as it was"]
    asked = [asyncio.ensure_future(ask("echo", value, **option)) for ask in ways(to)]
    await until(lambda: client._engine.sizes()["parked"] == len(asked))
    if by_default:
        assert client.destination("role") is to
        with pytest.raises(roletalk.NoUnitError):
            await to.request("echo", wait_for_unit=False)
    value[0] = "changed"
    serve_all(service)
    await join(client, service)
    assert await asyncio.gather(*asked) == [["as it was"]] * len(asked)
    await until(lambda: is_clean(client, service))
    assert not any(unit.stats().streams for unit in client.units)


async def test_without_waiting_there_is_no_unit(peers: list[roletalk.Peer]) -> None:
    to = a_peer(peers, "client").destination("role")
    for ask in ways(to):
        with pytest.raises(roletalk.NoUnitError):
            await ask("echo")
    with pytest.raises(roletalk.NoUnitError):
        to.readable("echo")


async def test_waiting_for_a_unit_has_an_end(peers: list[roletalk.Peer]) -> None:
    client = a_peer(peers, "client")
    to = client.destination("role", wait_for_unit=True)
    for ask in ways(to):
        with pytest.raises(roletalk.TimeoutError, match=r"\(20 ms\)") as late:
            await ask("echo", timeout=0.02)
        assert '"role"' in str(late.value.hint)
    asked = [asyncio.ensure_future(ask("echo")) for ask in ways(to)]
    await until(lambda: client._engine.sizes()["parked"] == len(asked))
    for asking in asked:
        asking.cancel()
    await until(lambda: is_clean(client))
    assert all(isinstance(end, asyncio.CancelledError) for end in await outcomes(asked))
    asked = [asyncio.ensure_future(ask("echo")) for ask in ways(to)]
    await until(lambda: client._engine.sizes()["parked"] == len(asked))
    await client.close()
    assert {type(end) for end in await outcomes(asked)} == {roletalk.ClosedError}


async def outcomes(asked: Sequence[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), LIMIT)


async def test_the_default_timeout_ends_the_waiting(peers: list[roletalk.Peer]) -> None:
    client = a_peer(peers, "client", limits=roletalk.Limits(request_timeout=0.02))
    for ask in ways(client.destination("role", wait_for_unit=True)):
        with pytest.raises(roletalk.TimeoutError, match=r"\(20 ms\)"):
            await ask("echo")


async def test_waiting_for_a_unit_that_handles_it(two: Two, peers: list[roletalk.Peer]) -> None:
    asked = [
        asyncio.ensure_future(ask("echo", number, wait_for_unit=True, timeout=LIMIT))
        for number, ask in enumerate(ways(two.to))
    ]
    await until(lambda: two.client._engine.sizes()["parked"] == len(asked))
    assert two.rerouted() > 0
    for ask in ways(two.to):
        with pytest.raises(roletalk.TimeoutError):
            await ask("echo", wait_for_unit=True, timeout=0.1)
    third = a_peer(peers, "third")
    serve_all(third)
    await join(two.client, third)
    assert await asyncio.gather(*asked) == list(range(len(asked)))


async def test_a_handler_that_is_cancelled_waits_for_no_unit(chain: Chain) -> None:
    nobody = chain.middle.destination("nobody", wait_for_unit=True)
    asked: list[asyncio.Future[Any]] = []
    handlers = Handlers()

    @chain.first.on_request("wait")
    async def wait(ctx: Context) -> None:
        asked.append(nobody.request("x"))
        await handlers(ctx)

    asking = chain.to_middle.request("wait")
    await handlers.are_begun(1)
    asking.cancel()
    await until(lambda: is_clean(*chain.peers))
    with pytest.raises(roletalk.CancelledError):
        await asked[0]
    with pytest.raises(roletalk.TimeoutError):
        await chain.to_middle.request("wait", timeout=0.05)
    with pytest.raises((roletalk.CancelledError, roletalk.TimeoutError)):
        await asked[1]
    await until(lambda: is_clean(*chain.peers))


# Leaving.


async def test_draining_an_idle_peer_is_quick(connect: Connect) -> None:
    times = []
    for _ in range(3):
        pair = await connect()
        await pair.destination_of("role")
        started = time.monotonic()
        assert await pair.worker.drain(LIMIT)
        times.append(time.monotonic() - started)
    # The fence would hold it up for a second.
    assert min(times) < 0.5


async def test_what_was_sent_before_the_withdrawal_is_answered(connect: Connect) -> None:
    pair = await connect()
    to = await pair.destination_of("role")
    handlers, go = Handlers(), asyncio.Event()

    @pair.role("role").on_request("wait")
    async def wait(ctx: Context) -> int:
        handlers.begun.append(ctx)
        await go.wait()
        return ctx.data

    running = to.request("wait", 1)
    await handlers.are_begun(1)
    # These are on their way when the worker begins to leave.
    late = [to.request("echo", number) for number in range(10)]
    draining = asyncio.ensure_future(pair.worker.drain(LIMIT))
    assert await asyncio.gather(*late) == list(range(10))
    await until(lambda: not to.is_ready)
    assert (await turned_away(to, pair.unit)).unhandled
    (unit,) = pair.worker.units
    assert unit.stats().requests_turned_away == 1
    go.set()
    assert await running == 1
    assert await draining
