"""What users do wrong, and what they are told: the rows of ``tests/data/mistakes.json``, one test each. The
other languages have the same."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

import pytest

import roletalk

DATA = Path(__file__).parents[2] / "tests" / "data"
ROWS: list[dict[str, str]] = json.loads((DATA / "mistakes.json").read_text())
TLS = DATA / "tls"

Mistake = Callable[[], Awaitable[Any]]
MISTAKES: dict[str, Mistake] = {}


def mistake(name: str) -> Callable[[Mistake], Mistake]:
    def add(function: Mistake) -> Mistake:
        MISTAKES[name] = function
        return function

    return add


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(TLS / "ca.pem"))


def serving(certificate: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / f"{certificate}.pem", TLS / "key.pem")
    return context


async def dial(address: str, client: roletalk.Peer | None = None, **options: Any) -> None:
    async with client or roletalk.Peer("client") as peer:
        await peer.connect(address, permanent=False, **options)


async def over_tls(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    async with roletalk.Peer("service") as service:
        listener = await service.listen("127.0.0.1", ssl=server)
        await dial(f"wss://localhost:{listener.port}", ssl=client)


async def with_keys(service: dict[str, str], client: dict[str, str]) -> None:
    async with roletalk.Peer("service", keys=service) as peer:
        listener = await peer.listen("127.0.0.1")
        await dial(listener.url, roletalk.Peer("client", keys=client))


async def answering(answer: bytes | None, **options: Any) -> None:
    """Dials a listener that answers the upgrade with this, or with nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readline()
        if answer is not None:
            writer.write(answer)

    limits = roletalk.Limits(handshake_timeout=0.05)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await dial(f"ws://127.0.0.1:{port}", roletalk.Peer("client", limits=limits), **options)
    finally:
        for writer in writers:
            writer.close()
        server.close()


async def asking(ask: Callable[[roletalk.Peer, roletalk.Peer], Awaitable[Any]]) -> None:
    async with roletalk.Peer("service") as service, roletalk.Peer("client") as client:
        math = service.role("math")

        @math.on_request("add")
        async def add(ctx: roletalk.Context) -> None: ...

        @math.on_request("slow")
        async def slow(ctx: roletalk.Context) -> None:
            await asyncio.get_running_loop().create_future()

        listener = await service.listen("127.0.0.1")
        await client.connect(listener.url)
        await client.destination("math").wait_ready()
        await ask(service, client)


@mistake("port closed")
async def _() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    await dial(f"ws://127.0.0.1:{port}")


@mistake("name unknown")
async def _() -> None:
    await dial("ws://no..name:9000")


@mistake("silent port")
async def _() -> None:
    await answering(None)


@mistake("TLS against a plain port")
async def _() -> None:
    async with roletalk.Peer("service") as service:
        listener = await service.listen("127.0.0.1")
        await dial(f"wss://localhost:{listener.port}", ssl=trusting())


@mistake("plain against a TLS port")
async def _() -> None:
    async with roletalk.Peer("service") as service:
        listener = await service.listen("127.0.0.1", ssl=serving())
        await dial(f"ws://localhost:{listener.port}")


@mistake("certificate of an unknown authority")
async def _() -> None:
    await over_tls(serving(), ssl.create_default_context())


@mistake("certificate expired")
async def _() -> None:
    await over_tls(serving("expired"), trusting())


@mistake("certificate of another host")
async def _() -> None:
    await over_tls(serving("other-name"), trusting())


@mistake("client certificate missing")
async def _() -> None:
    server = serving()
    server.load_verify_locations(TLS / "ca.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    await over_tls(server, trusting())


@mistake("no key")
async def _() -> None:
    await with_keys({"k": "secret"}, {})


@mistake("wrong key")
async def _() -> None:
    await with_keys({"k": "secret"}, {"k": "other"})


@mistake("no common key")
async def _() -> None:
    await with_keys({"k": "secret"}, {"l": "secret"})


@mistake("path refused")
async def _() -> None:
    async with roletalk.Peer("service") as service:
        listener = await service.listen("127.0.0.1", path="/mesh")
        await dial(f"ws://127.0.0.1:{listener.port}/other")


@mistake("origin refused")
async def _() -> None:
    await answering(b"HTTP/1.1 403 Forbidden\r\n\r\n")


@mistake("address without a scheme")
async def _() -> None:
    await dial("localhost")


@mistake("port out of range")
async def _() -> None:
    await dial("ws://localhost:99999")


@mistake("empty address")
async def _() -> None:
    await dial("")


@mistake("role not served")
async def _() -> None:
    await asking(lambda _, client: client.destination("meth").request("add"))


@mistake("event mistyped")
async def _() -> None:
    await asking(lambda _, client: client.destination("math").request("ad"))


@mistake("not serializable")
async def _() -> None:
    await asking(lambda _, client: client.destination("math").request("add", object()))


@mistake("too large")
async def _() -> None:
    data = bytes(101 << 20)
    await asking(lambda _, client: client.destination("math").request("add", data))


@mistake("timeout")
async def _() -> None:
    await asking(lambda _, client: client.destination("math").request("slow", timeout=0.01))


@mistake("unit lost")
async def _() -> None:
    async def ask(service: roletalk.Peer, client: roletalk.Peer) -> None:
        answer = client.destination("math").request("slow")
        await service.close()
        await answer

    await asking(ask)


@mistake("closed peer")
async def _() -> None:
    async def ask(_: roletalk.Peer, client: roletalk.Peer) -> None:
        math = client.destination("math")
        await client.close()
        await math.request("add")

    await asking(ask)


@mistake("port in use")
async def _() -> None:
    async with roletalk.Peer("service") as service:
        listener = await service.listen("127.0.0.1")
        await service.listen("127.0.0.1", listener.port)


@pytest.mark.parametrize("row", ROWS, ids=[row["mistake"] for row in ROWS])
async def test_told(row: dict[str, str]) -> None:
    with pytest.raises(roletalk.Error) as raised:
        await MISTAKES[row["mistake"]]()
    error = raised.value
    assert error.kind in row["kind"].split("|"), repr(error)
    assert error.hint is not None, repr(error)
    assert any(part in error.hint for part in row["hint"].split("|")), error.hint
    if sys.version_info >= (3, 11) and error.kind != "REJECTED":
        assert f"hint: {error.hint}" in "".join(traceback.format_exception_only(error))


async def test_the_error_of_the_system_is_the_cause() -> None:
    with pytest.raises(roletalk.ConnectFailedError) as raised:
        await MISTAKES["port closed"]()
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
    with pytest.raises(roletalk.ConnectFailedError) as raised:
        await MISTAKES["certificate expired"]()
    assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)


async def test_who_waits_in_vain_is_told_of_the_units_there_are() -> None:
    async def ask(_: roletalk.Peer, client: roletalk.Peer) -> None:
        await client.destination("meth").wait_ready(timeout=0.01)

    with pytest.raises(roletalk.TimeoutError) as raised:
        await asking(ask)
    assert raised.value.hint is not None and "service (math)" in raised.value.hint


async def test_a_rejection_says_what_was_asked() -> None:
    async def ask(service: roletalk.Peer, client: roletalk.Peer) -> None:
        @service.role("math").on_request("fail")
        async def fail(ctx: roletalk.Context) -> None:
            raise ValueError("no")

        await client.destination("math").request("fail")

    with pytest.raises(roletalk.RejectedError) as raised:
        await asking(ask)
    told = 'The request was for the event "fail" of the role "math" at the unit service.'
    assert (str(raised.value), raised.value.hint) == ("no", told)


async def test_a_mistyped_stream_is_told_the_streams_there_are() -> None:
    async def ask(service: roletalk.Peer, client: roletalk.Peer) -> None:
        math = service.role("math")

        @math.on_readable("upload")
        async def upload(ctx: roletalk.Context) -> None: ...

        @math.on_writable("uploaded")
        async def uploaded(ctx: roletalk.Context) -> None: ...

        await client.destination("math").writable("uplod")

    with pytest.raises(roletalk.RejectedError) as raised:
        await asking(ask)
    hint = raised.value.hint
    assert hint is not None
    assert hint.endswith('Did you mean "upload"? Events of this kind: "upload".'), hint
