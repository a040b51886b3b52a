"""Context variables: each handler sees those of the application and of its own request's middleware."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from typing import Any, Callable

import pytest
import trustme

import roletalk
from roletalk import Context, Next

from .conftest import LIMIT, Connect, patient, until

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")
APPLICATION: contextvars.ContextVar[str] = contextvars.ContextVar("APPLICATION", default="none")

KINDS = ["task", "thread", "inline"]


def register(role: roletalk.Role, event: str, kind: str, handler: Callable[[Context], Any]) -> None:
    async def task(ctx: Context) -> Any:
        return handler(ctx)

    if kind == "task":
        role.on_request(event, task)
    else:
        role.on_request(event, handler, inline=kind == "inline")


def handler(ctx: Context) -> list[str]:
    """Tells what it sees, then leaves something behind."""
    seen = [APPLICATION.get(), TENANT.get()]
    TENANT.set("left by a handler")
    return seen


@pytest.mark.parametrize("layered", [False, True], ids=["plain", "middleware"])
@pytest.mark.parametrize("kind", KINDS)
async def test_each_handler_has_a_context_of_its_own(
    connect: Connect, kind: str, layered: bool
) -> None:
    APPLICATION.set("the application")
    pair = await connect()
    APPLICATION.set("changed after the peers were made")
    register(pair.role(), "ask", kind, handler)
    if layered:

        @pair.worker.middleware
        async def layer(ctx: Context, call_next: Next) -> Any:
            assert TENANT.get() == "nobody"
            TENANT.set(ctx.data)
            return await call_next(ctx)

    destination = await pair.destination()
    for n in range(20):
        own = f"tenant {n}" if layered else "nobody"
        assert await destination.request("ask", f"tenant {n}", timeout=LIMIT) == [
            "the application",
            own,
        ]
    answers = await asyncio.gather(*(destination.request("ask", str(n)) for n in range(50)))
    assert answers == [["the application", str(n) if layered else "nobody"] for n in range(50)]


@pytest.mark.parametrize("kind", ["readable", "writable"])
async def test_handlers_of_streams_and_messages_have_theirs(connect: Connect, kind: str) -> None:
    APPLICATION.set("the application")
    pair = await connect()
    APPLICATION.set("changed")
    seen: list[list[str]] = []

    async def stream(ctx: Context) -> None:
        seen.append(handler(ctx))
        async with ctx.accept() as opened:
            if ctx.kind == "readable":
                await opened.read()

    role = pair.role()
    role.on_readable("stream", stream)
    role.on_writable("stream", stream)
    role.on_message("message", lambda ctx: seen.append(handler(ctx)), inline=True)
    destination = await pair.destination()
    for _ in range(3):
        if kind == "readable":
            async with destination.writable("stream"):
                pass
        else:
            async with destination.readable("stream"):
                pass
        await destination.send("message")
    await until(lambda: len(seen) == 6)
    assert seen == [["the application", "nobody"]] * 6


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_what_reading_is_resumed_by_is_not_inherited(tls: bool) -> None:
    """Reading pauses while too many handlers run, and goes on when one of them ends."""
    server: ssl.SSLContext | None = None
    client_side: ssl.SSLContext | None = None
    if tls:
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(server)
        client_side = ssl.create_default_context()
        authority.configure_trust(client_side)
    worker = patient(name="worker", limits=roletalk.Limits(running_handlers=1))
    client = patient(name="client")
    seen: list[str] = []
    try:
        listener = await worker.listen("localhost", ssl=server)
        scheme = "wss" if tls else "ws"
        await client.connect(f"{scheme}://localhost:{listener.port}", ssl=client_side)
        go = asyncio.Event()

        @worker.role("role").on_request("ask")
        async def ask(ctx: Context) -> None:
            seen.append(TENANT.get())
            TENANT.set(f"tenant {len(seen)}")
            await go.wait()

        worker.role("role").on_request("inline", lambda ctx: TENANT.get(), inline=True)
        worker.role("role").on_request("thread", lambda ctx: TENANT.get())
        destination = client.destination("role")
        await destination.wait_ready(LIMIT)
        # More than what waits before reading pauses.
        size = 64 << 10
        first = [destination.request("ask", bytes(size), timeout=LIMIT) for _ in range(16)]
        await until(lambda: len(seen) == 1)
        go.set()
        await asyncio.gather(*first)
        for _ in range(4):
            await destination.request("ask", timeout=LIMIT)
            assert await destination.request("inline", timeout=LIMIT) == "nobody"
            assert await destination.request("thread", timeout=LIMIT) == "nobody"
        assert seen == ["nobody"] * 20
    finally:
        await client.close()
        await worker.close()


async def test_callbacks_of_events_have_theirs(connect: Connect) -> None:
    APPLICATION.set("the application")
    worker, client = patient(name="worker"), patient(name="client")
    APPLICATION.set("changed")
    seen: list[list[str]] = []

    @worker.on(roletalk.UnitOpened, roletalk.UnitClosed)
    def happened(event: roletalk.Event) -> None:
        seen.append([APPLICATION.get(), TENANT.get()])
        TENANT.set("left by a callback")

    worker.role("role").on_request("ask", handler, inline=True)
    try:
        TENANT.set("who listens")
        listener = await worker.listen("127.0.0.1")
        TENANT.set("who connects")
        await client.connect(listener.url)
        destination = client.destination("role")
        await destination.wait_ready(LIMIT)
        assert await destination.request("ask", timeout=LIMIT) == ["the application", "nobody"]
        await client.close()
        await until(lambda: len(seen) == 2)
        assert seen == [["the application", "nobody"]] * 2
    finally:
        await client.close()
        await worker.close()


def test_blocking_peers_take_theirs_from_their_maker() -> None:
    def program() -> None:
        from roletalk import sync

        APPLICATION.set("the application")
        with sync.Peer("worker") as worker, sync.Peer("client") as client:
            APPLICATION.set("changed")
            for kind in KINDS:
                register(worker.role("role"), kind, kind, handler)
            client.connect(worker.listen("127.0.0.1").url)
            destination = client.destination("role")
            destination.wait_ready(LIMIT)
            for kind in KINDS * 2:
                expected = ["the application", "nobody"]
                assert destination.request(kind, timeout=LIMIT) == expected

    contextvars.copy_context().run(program)
