from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
import trustme

import roletalk
from roletalk import Context
from roletalk._links import TransportLink

from .conftest import LIMIT, Connect, Pair, event_of, patient, until

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """A server's context, and that of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_tls(contexts: Contexts) -> None:
    server, client = contexts
    async with roletalk.Peer(name="worker") as worker, roletalk.Peer() as other:
        role = worker.role("role")
        role.on_request("echo", lambda ctx: ctx.data, inline=True)

        @role.on_writable("download")
        async def download(ctx: Context) -> None:
            async with ctx.accept() as stream:
                await stream.write(b"x" * 5_000_000)

        listener = await worker.listen("127.0.0.1", ssl=server)
        assert listener.url.startswith("wss://127.0.0.1:")
        unit = await other.connect(f"wss://localhost:{listener.port}", ssl=client)
        destination = other.destination("role")
        assert await destination.request("echo", b"y" * 3_000_000) == b"y" * 3_000_000
        assert len(await destination.readable("download").read()) == 5_000_000
        again = await other.connect(listener.url, ssl=client, server_hostname="localhost")
        assert again is unit
        assert len(unit.stats().connections) == 2


async def test_writing_over_tls_waits_for_nothing_to_come(contexts: Contexts) -> None:
    server, client = contexts
    async with roletalk.Peer() as worker, roletalk.Peer() as other:
        heard: asyncio.Queue[int] = asyncio.Queue()
        role = worker.role("role")
        role.on_message("note", lambda ctx: heard.put_nowait(ctx.data), inline=True)
        listener = await worker.listen("127.0.0.1", ssl=server)
        await other.connect(f"wss://localhost:{listener.port}", ssl=client)
        destination = other.destination("role")
        await destination.wait_ready(LIMIT)
        for number in range(20):
            await destination.send("note", number)
            # The loop has nothing else to do meanwhile.
            assert await asyncio.wait_for(heard.get(), LIMIT) == number
        assert heard.empty()


async def test_certificates_are_verified(contexts: Contexts) -> None:
    server, client = contexts
    async with roletalk.Peer() as worker, roletalk.Peer() as other:
        listener = await worker.listen("127.0.0.1", ssl=server)
        events = worker.events()
        with pytest.raises(roletalk.ConnectFailedError, match="certificate"):
            await other.connect(f"wss://localhost:{listener.port}", permanent=False)
        with pytest.raises(roletalk.ConnectFailedError, match="certificate"):
            await other.connect(listener.url, ssl=client, permanent=False)
        closed = await event_of(events, roletalk.ConnectionClosed)
        assert isinstance(closed.reason, roletalk.TlsError)
        assert closed.unit is None


async def test_preshared_keys() -> None:
    async with roletalk.Peer(keys={"main": "secret"}) as worker:
        listener = await worker.listen("127.0.0.1")
        refused = worker.events()
        async with roletalk.Peer(keys={"main": "secret"}) as friend:
            await friend.connect(listener.url)
        for keys in ({}, {"main": "wrong"}, {"other": "secret"}):
            async with roletalk.Peer(keys=keys) as stranger:
                with pytest.raises(roletalk.AuthRefusedError):
                    await stranger.connect(listener.url, permanent=False)
            assert (await event_of(refused, roletalk.AuthRefused)).reason
        assert worker.remove_preshared_key("main")
        assert not worker.remove_preshared_key("main")
        async with roletalk.Peer() as anyone:
            await anyone.connect(listener.url)
        with pytest.raises(roletalk.InvalidArgumentError):
            worker.add_preshared_key("", "x")
    with pytest.raises(roletalk.InvalidArgumentError):
        roletalk.Peer(keys={"id": ""})


async def test_a_path() -> None:
    async with roletalk.Peer() as worker, roletalk.Peer() as other:
        listener = await worker.listen("127.0.0.1", path="/rt")
        assert listener.url.endswith("/rt")
        with pytest.raises(roletalk.ConnectFailedError, match="400"):
            await other.connect(f"ws://127.0.0.1:{listener.port}/other", permanent=False)
        await other.connect(listener.url)
        with pytest.raises(roletalk.InvalidArgumentError, match="begin with /"):
            await worker.listen("127.0.0.1", path="rt")


async def test_headers_go_into_the_upgrade() -> None:
    async with roletalk.Peer() as other:
        head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        listening = await asyncio.start_server(server, "127.0.0.1")
        url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        with pytest.raises(roletalk.InvalidArgumentError, match="header"):
            await other.connect(url, headers={"a b": ""})
        assert not other.disconnect(url)
        with pytest.raises(roletalk.ConnectionLostError):
            await other.connect(url, headers={"Authorization": "Bearer x"}, permanent=False)
        assert b"authorization: bearer x\r\n" in (await head).lower()
        listening.close()


async def test_a_socket_of_the_callers(tmp_path: Path) -> None:
    async with roletalk.Peer() as worker, roletalk.Peer() as other:
        sock = socket.create_server(("127.0.0.1", 0))
        listener = await worker.listen(sock=sock)
        assert listener.port == sock.getsockname()[1]
        await other.connect(listener.url)
        if hasattr(socket, "AF_UNIX"):
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(str(tmp_path / "peer"))
            local = await worker.listen(sock=unix)
            assert (local.address, local.port) == (str(tmp_path / "peer"), 0)
            local.close()


async def test_a_closed_listener_accepts_nobody_else(pair: Pair) -> None:
    pair.listener.close()
    async with roletalk.Peer() as late:
        await until(lambda: pair.listener._sockets[0].fileno() == -1)
        with pytest.raises(roletalk.ConnectFailedError):
            await late.connect(pair.listener.url, permanent=False)
    assert pair.unit.is_open


async def test_addresses_that_cannot_be_listened_on(pair: Pair) -> None:
    with pytest.raises(roletalk.IoError):
        await pair.client.listen("127.0.0.1", pair.listener.port)


async def test_addresses_that_cannot_be_dialed() -> None:
    async with roletalk.Peer() as peer:
        for url in ("http://localhost", "nonsense", "ws://"):
            with pytest.raises(roletalk.InvalidArgumentError):
                await peer.connect(url)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(roletalk.ConnectFailedError, match="Socket errored"):
            await peer.connect(f"ws://127.0.0.1:{port}", permanent=False)
        assert not peer.disconnect(f"ws://127.0.0.1:{port}")


async def test_a_lost_address_is_dialed_again(pair: Pair) -> None:
    events = pair.client.events()
    [there] = pair.worker.units
    port = pair.listener.port
    # More than a second old, or the loss counts as a failed attempt.
    await there.close()
    event = await event_of(events, roletalk.ReconnectSucceeded)
    assert event.address.startswith(f"ws://127.0.0.1:{port}")
    assert event.unit.id == pair.worker.id
    assert pair.client.stats().reconnects == 1


async def test_a_failure_is_not_the_end() -> None:
    async with roletalk.Peer() as worker, roletalk.Peer() as other:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.close()
        with pytest.raises(roletalk.ConnectFailedError):
            await other.connect(f"ws://127.0.0.1:{port}")
        worker.role("role")
        await worker.listen("127.0.0.1", port)
        await other.destination("role").wait_ready(LIMIT)


async def test_disconnect_gives_up(pair: Pair) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
    connecting = asyncio.ensure_future(pair.client.connect(url))
    await asyncio.sleep(0)
    assert pair.client.disconnect(url)
    with pytest.raises(roletalk.ConnectFailedError, match="not to be dialed"):
        await connecting
    silent.close()


async def test_acquaintance() -> None:
    peers = [roletalk.Peer(name=name) for name in ("hub", "a", "b")]
    hub, a, b = peers
    listeners = [await peer.listen("127.0.0.1") for peer in (a, b)]
    a.role("a")
    b.role("b")
    destination = b.destination("a")
    for listener in listeners:
        await hub.connect(listener.url)
    await destination.wait_ready(LIMIT)
    assert [unit.name for unit in destination.units] == ["a"]
    for peer in peers:
        await peer.close()


async def test_what_units_say_of_themselves(connect: Connect) -> None:
    options: Any = {"tags": {"zone": "eu"}, "friendly": False}
    pair = await connect(worker=options)
    unit = pair.unit
    assert (unit.name, unit.id, unit.friendly) == ("worker", pair.worker.id, False)
    assert unit.tags == {"zone": "eu"} == pair.worker.tags
    assert unit.meta["protocol"] == "2.0.0"
    assert unit.meta["runtime"].endswith(sys.version.split()[0])
    assert unit.is_open
    assert repr(unit) == f"<Unit 'worker' {pair.worker.id}>"
    pair.worker.role("one")
    await until(lambda: unit.roles == ["one"])
    assert pair.client.units == [unit]
    pair.worker.set_tag("zone", "us")
    assert pair.worker.tags == {"zone": "us"}


async def test_bad_input_closes_that_connection_only(pair: Pair) -> None:
    events = pair.worker.events()
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000, b"\xff\xff\xff"):
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.listener.port)
        writer.write(said)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), LIMIT)
        await event_of(events, roletalk.ConnectionClosed)
        writer.close()
    assert pair.unit.is_open
    with pytest.raises(roletalk.RejectedError):
        await pair.client.destination("x").request("still here", to=pair.unit)


@pytest.mark.parametrize("closing", [False, True])
def test_what_came_with_the_tls_handshake_is_not_lost(closing: bool) -> None:
    """As it does on CPython 3.9 and 3.10, depending on how TCP cuts it."""
    host, transport = Mock(), Mock()
    transport.is_closing.return_value = closing
    link = TransportLink(host)
    link.connection_made(transport)
    link.data_received(b"GET /")
    link.data_received(b" HTTP/1.1")
    assert host.mock_calls == []
    link.begin(7)
    begun = [call.engine.lost(7)] if closing else [call.engine.feed(7, b"GET / HTTP/1.1")]
    assert host.mock_calls == begun
    assert transport.resume_reading.called is not closing
    link.gone()
    link.data_received(b"late")
    assert host.mock_calls == [*begun, call.release(7)]


async def test_dialing_waits_for_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with roletalk.Peer("early") as early, roletalk.Peer("late") as late:
        early.dial(f"ws://127.0.0.1:{port}")
        late.role("r")
        await late.listen("127.0.0.1", port)
        await early.destination("r").wait_ready(timeout=LIMIT)
        with pytest.raises(roletalk.InvalidArgumentError):
            early.dial("nonsense")


async def test_acquaintance_is_no_tool_for_others() -> None:
    hub, subject = patient(name="hub"), patient(name="subject")
    subject.role("told")
    at_hub, at_subject = [await peer.listen("127.0.0.1") for peer in (hub, subject)]
    await hub.connect(f"ws://localhost:{at_subject.port}")
    wide = patient(acquaintance_networks=["loopback", "10.0.0.0/8"], acquaintance_ports="any")
    await wide.connect(at_hub.url)
    await wide.destination("told").wait_ready(LIMIT)
    assert wide.stats().addresses_ignored == 0
    # By its name, after the lookup, and by its port, before that.
    for options in ({"acquaintance_networks": "public"}, {"acquaintance_ports": [1, "2-3"]}):
        narrow = patient(**options)
        narrow.destination("told")
        await narrow.connect(at_hub.url)
        await until(lambda narrow=narrow: narrow.stats().addresses_ignored > 0)  # type: ignore[misc]
        assert [unit.name for unit in narrow.units] == ["hub"]
        await narrow.close()
    with pytest.raises(roletalk.InvalidArgumentError, match="no network of acquaintance"):
        roletalk.Peer(acquaintance_networks="intranet")
    with pytest.raises(roletalk.InvalidArgumentError, match="no port of acquaintance"):
        roletalk.Peer(acquaintance_ports=[0])
    with pytest.raises(TypeError, match="acquaintance_networks"):
        roletalk.Peer(acquaintance_networks=5)  # type: ignore[arg-type]
    for peer in (hub, subject, wide):
        await peer.close()


async def test_connections_are_replaced_at_their_age_and_nothing_is_lost() -> None:
    limits = roletalk.Limits(connection_age=0.3)
    async with patient() as worker, patient(limits=limits) as client:
        worker.role("role").on_request("echo", lambda ctx: ctx.data, inline=True)
        listener = await worker.listen("127.0.0.1")
        unit = await client.connect(listener.url)
        destination = client.destination("role")
        await destination.wait_ready(LIMIT)
        ended = lost = 0

        def hear(event: roletalk.Event) -> None:
            nonlocal ended, lost
            ended += isinstance(event, roletalk.ConnectionClosed)
            lost += isinstance(event, roletalk.UnitClosed)

        client.on()(hear)
        while ended < 3:
            numbers = list(range(16))
            asked = [destination.request("echo", number) for number in numbers]
            assert await asyncio.gather(*asked) == numbers
        assert client.units == [unit]
        assert lost == 0
