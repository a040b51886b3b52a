"""What operators read, through `logging` as `roletalk`; and the reasons that events give."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from typing import Any, Callable

import pytest
import trustme

import roletalk

from .conftest import LIMIT, event_of, patient, until


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "roletalk" and record.levelno >= logging.INFO
    ]


async def test_a_regular_life_is_told_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    worker, client = patient(name="worker"), patient(name="client")
    listener = await worker.listen("127.0.0.1")
    await client.connect(listener.url)
    await until(lambda: len(worker.units) == 1)
    await client.close()
    await until(lambda: not worker.units)
    await worker.close()
    address = f"127.0.0.1:{listener.port}"
    assert sorted(records(caplog)) == sorted(
        [
            ("INFO", f"listening on {listener.url} ({address})"),
            ("INFO", f"unit 'worker' {worker.id} connected"),
            ("INFO", f"unit 'client' {client.id} connected"),
            ("INFO", f"unit 'worker' {worker.id} disconnected"),
            ("INFO", f"unit 'client' {client.id} disconnected"),
            ("INFO", f"no longer listening on {address}"),
        ]
    )


async def refused_keys(listener: roletalk.Listener) -> None:
    async with patient(keys={"other": "key"}) as stranger:
        with pytest.raises(roletalk.AuthRefusedError):
            await stranger.connect(listener.url)


async def bad_input(listener: roletalk.Listener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"\0 this is not HTTP \r\n\r\n")
    await reader.read()
    writer.close()


async def wrong_path(listener: roletalk.Listener) -> None:
    async with patient() as stranger:
        with pytest.raises(roletalk.ConnectFailedError):
            await stranger.connect(listener.url + "elsewhere", permanent=False)


async def no_tls(listener: roletalk.Listener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.read()
    writer.close()


async def hung_up_in_tls(listener: roletalk.Listener) -> None:
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        # The beginning of a hello.
        sock.sendall(b"\x16\x03\x01\x00\xff")


async def silent_in_tls(listener: roletalk.Listener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    await reader.read()
    writer.close()


REFUSALS: dict[str, tuple[Callable[[Any], Any], bool, str]] = {
    "keys": (refused_keys, False, r"^authentication with 127\.0\.0\.1:\d+ refused: \w"),
    "bad input": (bad_input, False, r"127\.0\.0\.1:\d+.*: .*\w"),
    "path": (wrong_path, False, r"^the handshake with 127\.0\.0\.1:\d+ failed: .*\w"),
    "no TLS": (
        no_tls,
        True,
        r"^connection of 127\.0\.0\.1:\d+ refused: The TLS handshake failed: \S",
    ),
    "hung up in TLS": (
        hung_up_in_tls,
        True,
        r"^connection of 127\.0\.0\.1:\d+ refused: The TLS handshake failed: \S",
    ),
    "silent in TLS": (
        silent_in_tls,
        True,
        r"^connection of 127\.0\.0\.1:\d+ refused: The TLS handshake failed: \S",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_are_warnings_with_address_and_reason(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    come, tls, expected = REFUSALS[name]
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(context)
    timeout = 0.2 if name == "silent in TLS" else LIMIT
    limits = roletalk.Limits(handshake_timeout=timeout)
    async with roletalk.Peer(keys={"main": "key"}, limits=limits) as worker:
        events = worker.events()
        listener = await worker.listen("127.0.0.1", ssl=context, path="/")
        await come(listener)
        closed: roletalk.ConnectionClosed = await event_of(events, roletalk.ConnectionClosed)
    # Of both sides: those of the worker name who came.
    warnings = [text for level, text in records(caplog) if level == "WARNING"]
    assert any(re.search(expected, text) for text in warnings), warnings
    assert closed.address.startswith("127.0.0.1:")
    assert not str(closed.reason).rstrip().endswith(":")


async def test_events_name_the_address(caplog: pytest.LogCaptureFixture) -> None:
    async with patient(name="worker", keys={"main": "key"}) as worker, patient() as stranger:
        here, there = worker.events(), stranger.events()
        listener = await worker.listen("127.0.0.1")
        with pytest.raises(roletalk.AuthRefusedError):
            await stranger.connect(listener.url)
        assert (await event_of(there, roletalk.AuthRefused)).address == listener.url
        refused = await event_of(here, roletalk.AuthRefused)
        assert refused.address.startswith("127.0.0.1:") and refused.reason


async def test_addresses_that_cannot_be_listened_on() -> None:
    async with roletalk.Peer() as peer, roletalk.Peer() as other:
        listener = await peer.listen("127.0.0.1")
        with pytest.raises(roletalk.IoError, match=f"127.0.0.1:{listener.port}.*in use"):
            await other.listen("127.0.0.1", listener.port)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        (None, "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_a_listener_has_the_host_as_given(host: Any, expected: str) -> None:
    async with roletalk.Peer() as peer, roletalk.Peer() as client:
        listener = await peer.listen(host, path="/rt")
        # `::` comes first on some systems.
        hosts = {expected, "[::1]"} if not host else {expected}
        assert listener.url in {f"ws://{each}:{listener.port}/rt" for each in hosts}
        await client.connect(listener.url)


async def test_a_certificate_covers_the_url_of_its_listener() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with patient() as worker, patient() as client:
        listener = await worker.listen("localhost", ssl=context)
        assert listener.url == f"wss://localhost:{listener.port}"
        await client.connect(listener.url, ssl=trusting)
