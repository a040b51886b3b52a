"""Who may do what: policies, identities, origins, and the application's judgement of upgrades."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Callable

import pytest
import trustme

import roletalk
from roletalk import Context, DeniedError, UpgradeRequest

from .conftest import LIMIT, Connect, Pair, event_of, patient, until

KINDS = ["message", "request", "readable", "writable"]
"""As handlers are registered."""

Ask = Callable[[roletalk.Destination], Awaitable[Any]]


async def message(to: roletalk.Destination) -> None:
    await to.send("e")


async def request(to: roletalk.Destination) -> None:
    await to.request("e")


async def readable(to: roletalk.Destination) -> None:
    async with to.writable("e") as stream:
        await stream.write(b"x")


async def writable(to: roletalk.Destination) -> None:
    async with to.readable("e") as stream:
        await stream.read()


async def broadcast(to: roletalk.Destination) -> None:
    assert await to.broadcast("e") == 1


async def survey(to: roletalk.Destination) -> None:
    for answer in await to.survey("e").all():
        answer.result()


CALLS: list[tuple[Ask, str]] = [
    (message, "message"),
    (request, "request"),
    (readable, "readable"),
    (writable, "writable"),
    (broadcast, "message"),
    (survey, "request"),
]
"""Each with the kind of handler that it is for."""


def serve_all(role: roletalk.Role) -> list[str]:
    """Handles the event "e" of every kind. Returns what was handled, to be filled."""
    handled: list[str] = []
    role.on_message("e", lambda ctx: handled.append(ctx.kind), inline=True)
    role.on_request("e", lambda ctx: handled.append(ctx.kind), inline=True)

    @role.on_readable("e")
    async def reads(ctx: Context) -> None:
        handled.append(ctx.kind)
        await ctx.accept().read()

    @role.on_writable("e")
    async def writes(ctx: Context) -> None:
        handled.append(ctx.kind)
        async with ctx.accept():
            pass

    return handled


@pytest.mark.parametrize(("ask", "kind"), CALLS, ids=[ask.__name__ for ask, _ in CALLS])
@pytest.mark.parametrize("allowed", [True, False])
async def test_calls_of_every_kind(
    connect: Connect, caplog: pytest.LogCaptureFixture, ask: Ask, kind: str, allowed: bool
) -> None:
    kinds = [kind] if allowed else [other for other in KINDS if other != kind]
    rule = {"who": {"key": "a"}, "call": [{"role": "role", "event": "e", "kinds": kinds}]}
    keys = {"keys": {"a": "secret"}}
    pair = await connect(worker={**keys, "policy": {"rules": [rule]}}, client=keys)
    handled = serve_all(pair.role())
    events = pair.worker.events()
    to = await pair.destination()
    if allowed:
        await ask(to)
        await until(lambda: handled == [kind])
        [unit] = pair.worker.units
        assert unit.stats().denied == 0
        return
    if kind == "message":
        await ask(to)
    else:
        with pytest.raises(roletalk.RejectedError) as raised:
            await ask(to)
        error = raised.value
        assert str(error).startswith("Not allowed by the policy of the peer")
        assert (error.code, error.unhandled) == ("NOT_ALLOWED", True)
    [unit] = pair.worker.units
    assert await event_of(events, roletalk.Denied) == roletalk.Denied(unit, kind, "role", "e", 1)
    assert handled == [] and unit.stats().denied == 1
    text = f"unit {unit} was denied {kind}, role 'role', event 'e', 1 times"
    assert [r.levelname for r in caplog.records if r.getMessage() == text] == ["WARNING"]


async def test_a_stranger_that_announces_a_role_gets_no_request() -> None:
    keys = {"friend": "1", "stranger": "2"}
    policy = {"default": {"call": "allow"}, "rules": [{"who": {"key": "friend"}, "serve": ["pay"]}]}
    async with patient(name="client", keys=keys, policy=policy) as client:
        events = client.events()
        listener = await client.listen("127.0.0.1")
        pay = client.destination("pay")
        async with patient(name="stranger", keys={"stranger": "2"}) as stranger:
            got: list[Any] = []
            stranger.role("pay").on_request("x", got.append, inline=True)
            await stranger.connect(listener.url)
            denied = await event_of(events, roletalk.Denied)
            assert (denied.kind, denied.role, denied.event) == ("serve", "pay", "")
            assert denied.unit.identity.key == "stranger" and denied.unit.roles == []
            with pytest.raises(roletalk.NoUnitError):
                await pay.request("x")
            async with patient(name="friend", keys={"friend": "1"}) as friend:
                friend.role("pay").on_request("x", lambda ctx: "paid", inline=True)
                await friend.connect(listener.url)
                await pay.wait_ready(LIMIT)
                assert [unit.name for unit in pay.units] == ["friend"]
                assert await pay.request("x") == "paid"
            assert got == []


async def test_a_new_policy_is_in_force_for_those_who_are_connected(pair: Pair) -> None:
    to = await pair.destination_of("role")
    allow: dict[str, Any] = {"default": "allow"}
    for policy, allowed in [
        (allow, True),
        ({"default": "deny"}, False),
        (None, True),
        ('{"rules": []}', False),
        (json.dumps(allow), True),
    ]:
        pair.worker.set_policy(policy)
        if allowed:
            assert await to.request("echo", 1) == 1
        else:
            with pytest.raises(roletalk.RejectedError, match="Not allowed by the policy"):
                await to.request("echo", 1)


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [
        ("{", roletalk.InvalidArgumentError, "The policy cannot be read"),
        ({"rule": []}, roletalk.InvalidArgumentError, "unknown field `rule`"),
        ({"rules": [{"who": {}, "call": ["*"]}]}, roletalk.InvalidArgumentError, "rule 1.*nobody"),
        ({"default": {1, 2}}, roletalk.InvalidArgumentError, "cannot be written as JSON"),
        (b"{}", TypeError, "policy must be a mapping"),
        (["a"], TypeError, "policy must be a mapping"),
    ],
)
async def test_what_is_no_policy_changes_nothing(
    pair: Pair, policy: Any, error: type[Exception], text: str
) -> None:
    to = await pair.destination_of("role")
    pair.worker.set_policy({"default": "deny"})
    with pytest.raises(error, match=text):
        pair.worker.set_policy(policy)
    with pytest.raises(roletalk.RejectedError, match="Not allowed by the policy"):
        await to.request("echo")
    with pytest.raises(error, match=text):
        roletalk.Peer(policy=policy)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"origins": "https://a.example"}, TypeError, "origins must be an iterable"),
        ({"origins": [1]}, TypeError, "each of origins must be a str"),
        ({"origins": ["https://a.example/x"]}, roletalk.InvalidArgumentError, "is no origin"),
        ({"identity_headers": "x-team"}, TypeError, "identity_headers must be an iterable"),
        ({"identity_headers": ["a b"]}, roletalk.InvalidArgumentError, "`a b` is no name"),
        ({"authenticate": "token"}, TypeError, "authenticate must be a function"),
        ({"channel_binding": "always"}, roletalk.InvalidArgumentError, "neither disable, prefer"),
        ({"channel_binding": None}, TypeError, "channel_binding must be a str"),
        ({"peer_key": b"short"}, roletalk.InvalidArgumentError, "32 random bytes"),
        ({"peer_key": "x" * 32}, TypeError, "peer_key must be bytes"),
    ],
)
def test_settings(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        roletalk.Peer(**options)


# A file.


def write(path: Path, policy: Any) -> None:
    """As programs should, so that nobody reads half of it."""
    text = policy if isinstance(policy, str) else json.dumps(policy)
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


async def test_a_watched_file(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "policy.json"
    to = await pair.destination_of("role")
    events = pair.worker.events()

    async def denied() -> bool:
        try:
            await to.request("echo")
        except roletalk.RejectedError as error:
            assert error.code == "NOT_ALLOWED"
            return True
        return False

    with pytest.raises(roletalk.InvalidArgumentError, match="No such file"):
        await pair.worker.watch_policy(path)
    write(path, {"default": "deny"})
    await pair.worker.watch_policy(path)
    assert await denied()
    write(path, {"default": "allow"})
    loaded = await event_of(events, roletalk.PolicyLoaded)
    assert loaded == roletalk.PolicyLoaded(str(path))
    assert not await denied()

    for broken, why in [
        ('{"default": "maybe"}', "allow"),
        (None, "No such file"),
        ('{"rules": [{"who": "any"}]}', "rule 1"),
    ]:
        if broken is None:
            path.unlink()
        else:
            write(path, broken)
        failed = await event_of(events, roletalk.PolicyFailed)
        assert failed.path == str(path) and str(failed.error).startswith(f"The policy {path} ")
        assert why in str(failed.error)
        assert not await denied()
    write(path, {"default": "deny"})
    # Of each fault one was told.
    async for event in events:
        assert not isinstance(event, roletalk.PolicyFailed)
        if isinstance(event, roletalk.PolicyLoaded):
            break
    assert await denied()
    logged = [record.getMessage() for record in caplog.records if "policy" in record.getMessage()]
    assert logged.count(f"policy {path} loaded") == 2
    assert sum(text.startswith(f"policy {path} failed: ") for text in logged) == 3

    # Another policy is set: the file is watched no more.
    [watching] = [task for task in asyncio.all_tasks() if task.get_name() == "roletalk policy"]
    pair.worker.set_policy(None)
    await asyncio.wait([watching])
    assert not await denied()


async def test_watching_ends_with_the_peer(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    write(path, {})
    async with roletalk.Peer() as peer:
        await peer.watch_policy(path)
        await peer.watch_policy(str(path))
        await until(
            lambda: sum(t.get_name() == "roletalk policy" for t in asyncio.all_tasks()) == 1
        )
    assert not any(task.get_name() == "roletalk policy" for task in asyncio.all_tasks())
    with pytest.raises(roletalk.ClosedError):
        await peer.watch_policy(path)


# Identities.


@pytest.mark.parametrize(
    ("origin", "allowed", "comes"),
    [
        (None, [], True),
        ("https://app.example", [], False),
        ("https://app.example", ["https://app.example"], True),
        ("https://evil.example", ["https://app.example"], False),
        ("https://evil.example", ["*"], True),
        # The same as the host: by a name of its own, any page can have it so.
        ("the host", [], False),
    ],
)
async def test_origins(origin: str | None, allowed: list[str], comes: bool) -> None:
    async with patient(origins=allowed) as worker, patient() as client:
        listener = await worker.listen("127.0.0.1")
        if origin == "the host":
            origin = listener.url.replace("ws:", "http:")
        headers = {} if origin is None else {"Origin": origin}
        connecting = client.connect(listener.url, headers=headers, permanent=False)
        if comes:
            await connecting
        else:
            with pytest.raises(roletalk.ConnectFailedError, match="403"):
                await connecting
            assert worker.units == []


async def test_headers_are_kept() -> None:
    async with patient(identity_headers=["X-Team", "x-zone"]) as worker, patient() as client:
        listener = await worker.listen("127.0.0.1")
        await client.connect(listener.url, headers={"x-team": "red", "Cookie": "secret"})
        await until(lambda: len(worker.units) == 1)
        identity = worker.units[0].identity
        assert identity.headers == (("x-team", "red"),)
        assert identity.header("X-TEAM") == "red" and identity.header("cookie") is None
        assert "red" not in repr(identity)


async def test_each_connection_has_an_identity(connect: Connect) -> None:
    keys = {"keys": {"a": "secret"}}
    pair = await connect(worker=keys, client=keys)
    assert pair.unit.identity.key == "a" and pair.unit.identity.dialed
    assert pair.unit.identity.address == f"127.0.0.1:{pair.listener.port}"
    await until(lambda: len(pair.worker.units) == 1)
    [unit] = pair.worker.units
    assert unit.identities == [unit.identity] and not unit.identity.dialed
    # The same peer, at another address of the worker's.
    other = await pair.worker.listen("127.0.0.1", path="/other")
    events = pair.worker.events()
    assert await pair.client.connect(other.url, permanent=False) is pair.unit
    await until(lambda: len(unit.identities) == 2)
    first, second = unit.identities
    assert first.address != second.address and unit.identity == second
    assert {first, second} == {*unit.identities}
    await pair.unit.close()
    await event_of(events, roletalk.UnitClosed)
    assert unit.identities == [] and unit.identity == second


async def test_nobody_joins_a_unit_of_another_identity() -> None:
    asked: list[UpgradeRequest] = []

    def claims(request: UpgradeRequest) -> dict[str, Any]:
        asked.append(request)
        return {"sub": request.header("x-user")}

    async with patient(authenticate=claims) as worker, patient() as client:
        events = worker.events()
        listener = await worker.listen("127.0.0.1")
        for user in ("ann", "ann", "bob"):
            # Other addresses: one that is connected is not dialed again.
            url = f"{listener.url}/?{len(asked)}"
            # Without keys, the side that dials is through before it is refused.
            await client.connect(url, headers={"X-User": user}, permanent=False)
        refused = await event_of(events, roletalk.AuthRefused)
        assert "another identity" in refused.reason
        [known] = worker.units
        assert [identity.claims for identity in known.identities] == [{"sub": "ann"}] * 2
        assert [request.header("x-user") for request in asked] == ["ann", "ann", "bob"]


# The application's judgement of upgrades.


async def let_in(request: UpgradeRequest) -> dict[str, Any]:
    await asyncio.sleep(0)
    return plainly(request)


def plainly(request: UpgradeRequest) -> dict[str, Any]:
    if request.bearer != "right":
        raise DeniedError(401, "no token")
    return {"sub": "ann", "team": ["red", "blue"]}


@pytest.mark.parametrize("authenticate", [let_in, plainly])
async def test_claims_reach_identity_and_policy(authenticate: Any) -> None:
    asked: list[UpgradeRequest] = []

    def noted(request: UpgradeRequest) -> Any:
        asked.append(request)
        return authenticate(request)

    policy = {"rules": [{"who": {"claim": {"team": "red"}}, "call": ["role/echo"]}]}
    async with patient(authenticate=noted, policy=policy) as worker, patient() as client:
        worker.role("role").on_request("echo", lambda ctx: ctx.unit.identity.claims, inline=True)
        listener = await worker.listen("127.0.0.1", path="/rt")
        await client.connect(listener.url, headers={"Authorization": "bearer right"})
        to = client.destination("role")
        await to.wait_ready(LIMIT)
        assert await to.request("echo") == {"sub": "ann", "team": ["red", "blue"]}
        with pytest.raises(roletalk.RejectedError, match="Not allowed"):
            await to.request("other")
        [identity] = worker.units[0].identities
    [request] = asked
    assert (request.path, request.address) == ("/rt", identity.address)
    assert request.header("Authorization") == "bearer right" and request.certificate is None
    assert "right" not in repr(request)


def raising(error: BaseException) -> Callable[[UpgradeRequest], Any]:
    def authenticate(request: UpgradeRequest) -> Any:
        raise error

    return authenticate


@pytest.mark.parametrize(
    ("authenticate", "status", "reason", "logged"),
    [
        (let_in, 401, "no token", False),
        (plainly, 401, "no token", False),
        (raising(DeniedError()), 403, "", False),
        (raising(DeniedError(reason="banned")), 403, "banned", False),
        (raising(DeniedError(503, "too many")), 503, "too many", False),
        (raising(LookupError("no such database")), 500, "no such database", True),
        (raising(asyncio.CancelledError()), 503, "cancelled", False),
        (lambda request: None, 500, "must return claims", True),
        (lambda request: True, 500, "must return claims", True),
        (lambda request: {"sub": object()}, 500, "not JSON serializable", True),
        (lambda request: {"sub": float("nan")}, 500, "JSON", True),
        (lambda request: {"sub": "x" * 9000}, 500, "8192", True),
    ],
)
async def test_refusals(
    caplog: pytest.LogCaptureFixture,
    authenticate: Any,
    status: int,
    reason: str,
    logged: bool,
) -> None:
    async with patient(authenticate=authenticate) as worker, patient() as client:
        events = worker.events()
        listener = await worker.listen("127.0.0.1")
        with pytest.raises(roletalk.ConnectFailedError, match=f"response: {status}"):
            await client.connect(listener.url, permanent=False)
        closed = await event_of(events, roletalk.ConnectionClosed)
        assert reason in str(closed.reason) and "refused the upgrade" in str(closed.reason)
        assert worker.units == []
    errors = [r for r in caplog.records if r.levelname == "ERROR" and r.name == "roletalk"]
    assert [record.getMessage() for record in errors] == (
        [f"authenticate failed for {closed.address}"] if logged else []
    )
    assert all(record.exc_info for record in errors)


def test_a_refusal_has_the_status_of_one() -> None:
    for status in (200, 101, 399, 600):
        with pytest.raises(ValueError, match="400 to 599"):
            DeniedError(status)
    with pytest.raises(TypeError, match="status must be"):
        DeniedError("401")  # type: ignore[arg-type]
    assert DeniedError(401, "x").kind == "AUTH_REFUSED"


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Waiting:
    """A function that judges nothing before it is cancelled."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: UpgradeRequest) -> dict[str, Any]:
        self.asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {}


async def test_a_judgement_has_the_time_of_a_handshake() -> None:
    waiting = Waiting()
    limits = roletalk.Limits(handshake_timeout=0.05)
    async with patient(authenticate=waiting, limits=limits) as worker, patient() as client:
        events = worker.events()
        listener = await worker.listen("127.0.0.1")
        with pytest.raises(roletalk.Error):
            await client.connect(listener.url, permanent=False)
        closed = await event_of(events, roletalk.ConnectionClosed)
        assert "took too long" in str(closed.reason)
        await asyncio.wait_for(waiting.cancelled.wait(), LIMIT)
        assert worker._host._judging == {}


@pytest.mark.parametrize("tls", [False, True])
async def test_a_judgement_is_cancelled_when_the_connection_goes(
    tls: bool, contexts: Contexts
) -> None:
    waiting = Waiting()
    server, trusting = contexts if tls else (None, None)
    async with patient(authenticate=waiting) as worker:
        listener = await worker.listen("127.0.0.1", ssl=server)
        address = ("localhost" if tls else "127.0.0.1", listener.port)
        _, writer = await asyncio.open_connection(*address, ssl=trusting)
        writer.write(UPGRADE)
        await asyncio.wait_for(waiting.asked.wait(), LIMIT)
        writer.close()
        await asyncio.wait_for(waiting.cancelled.wait(), LIMIT)
        assert worker._host._judging == {}


async def test_a_judgement_is_cancelled_with_the_peer() -> None:
    waiting = Waiting()
    worker = patient(authenticate=waiting)
    listener = await worker.listen("127.0.0.1")
    async with patient() as client:
        connecting = asyncio.ensure_future(client.connect(listener.url, permanent=False))
        await asyncio.wait_for(waiting.asked.wait(), LIMIT)
        await worker.close()
        assert waiting.cancelled.is_set() and worker._host._judging == {}
        with pytest.raises(roletalk.Error):
            await connecting


async def test_bytes_before_the_answer_to_an_upgrade_end_the_connection(contexts: Contexts) -> None:
    waiting = Waiting()
    server, trusting = contexts
    async with patient(authenticate=waiting) as worker:
        listener = await worker.listen("127.0.0.1", ssl=server)
        reader, writer = await asyncio.open_connection("localhost", listener.port, ssl=trusting)
        writer.write(UPGRADE)
        await asyncio.wait_for(waiting.asked.wait(), LIMIT)
        writer.write(b"\x82\x00")
        assert await asyncio.wait_for(reader.read(), LIMIT) == b""
        await asyncio.wait_for(waiting.cancelled.wait(), LIMIT)
        writer.close()


async def test_the_context_of_a_judgement_is_that_of_the_peer() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[str] = []

    async def authenticate(request: UpgradeRequest) -> dict[str, Any]:
        assert asyncio.get_running_loop() is loop
        seen.append(variable.get())
        variable.set("of the one before")
        return {}

    loop = asyncio.get_running_loop()
    variable.set("of the peer")
    async with patient(authenticate=authenticate) as worker:
        variable.set("later")
        listener = await worker.listen("127.0.0.1")
        for _ in range(2):
            async with patient() as client:
                await client.connect(listener.url)
    assert seen == ["of the peer"] * 2


# TLS.


class Known(ssl.SSLContext):
    """The context of a listener that knows its certificate."""

    leaf: bytes


Contexts = tuple[Known, ssl.SSLContext]
AUTHORITY = trustme.CA()


def known() -> Known:
    context = Known(ssl.PROTOCOL_TLS_SERVER)
    certificate = AUTHORITY.issue_cert("localhost")
    certificate.configure_cert(context)
    context.leaf = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    return context


def unknown() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    return context


def trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """A server's context, and that of a client that trusts it."""
    return known(), trust()


async def test_certificates_are_part_of_identities() -> None:
    server, client = known(), trust()
    server.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(server)
    own = AUTHORITY.issue_cert("client.example", "10.0.0.1", common_name="billing")
    own.configure_cert(client)
    asked: list[UpgradeRequest] = []

    def authenticate(request: UpgradeRequest) -> dict[str, Any]:
        asked.append(request)
        return {}

    rules = [{"who": {"certificate": "dns:client.example"}, "call": ["role/echo"]}]
    async with patient(authenticate=authenticate, policy={"rules": rules}) as worker:
        listener = await worker.listen("127.0.0.1", ssl=server)
        worker.role("role").on_request("echo", lambda ctx: None, inline=True)
        async with patient() as dialer:
            unit = await dialer.connect(f"wss://localhost:{listener.port}", ssl=client)
            to = dialer.destination("role")
            await to.wait_ready(LIMIT)
            await to.request("echo")
            [identity] = worker.units[0].identities
            shown = identity.certificate
            assert shown is not None and asked[0].certificate == shown
            assert "CN=billing" in shown.subject
            assert set(shown.names) == {"dns:client.example", "ip:10.0.0.1"}
            assert len(shown.fingerprint) == 64 and shown.expires > 1_700_000_000
            assert identity.address == asked[0].address
            there = unit.identity
            assert there.certificate is not None and there.certificate.names == ("dns:localhost",)
            assert there.dialed and there.address == f"127.0.0.1:{listener.port}"


@asynccontextmanager
async def relay(to: int) -> AsyncIterator[int]:
    """A program in between, with a certificate of its own that the dialer trusts."""
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        further, behind = await asyncio.open_connection("localhost", to, ssl=trust())
        for each in (pump(reader, behind), pump(further, writer)):
            task = asyncio.ensure_future(each)
            pumps.add(task)

    server = await asyncio.start_server(come, "127.0.0.1", ssl=unknown())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait(pumps)


@pytest.mark.parametrize(
    ("dialer", "listener", "knows", "directly", "relayed"),
    [
        ("prefer", "prefer", True, True, False),
        ("require", "require", True, True, False),
        ("prefer", "disable", True, True, True),
        ("disable", "disable", True, True, True),
        # A listener that does not know its certificate can neither name the connection nor compare.
        ("prefer", "prefer", False, True, True),
        ("require", "prefer", False, False, False),
        ("prefer", "require", False, False, False),
    ],
)
async def test_keys_are_not_proved_to_a_relay(
    dialer: str, listener: str, knows: bool, directly: bool, relayed: bool
) -> None:
    keys = {"a": "secret"}
    server = known() if knows else unknown()
    async with patient(keys=keys, channel_binding=listener) as worker:
        there = await worker.listen("127.0.0.1", ssl=server)

        async def comes(port: int) -> bool:
            async with patient(keys=keys, channel_binding=dialer) as client:
                url = f"wss://localhost:{port}"
                try:
                    await client.connect(url, ssl=trust(), permanent=False)
                except roletalk.AuthRefusedError as error:
                    assert "TLS connection" in str(error)
                    return False
                return True

        assert await comes(there.port) is directly
        async with relay(there.port) as port:
            assert await comes(port) is relayed


async def test_a_peer_is_known_again_by_its_key() -> None:
    secret = bytes(range(32))
    async with patient(policy={"rules": []}) as worker:
        listener = await worker.listen("127.0.0.1", ssl=known())
        names: list[str | None] = []
        ids: list[str] = []
        for key in (secret, secret, None):
            async with patient(peer_key=key) as client:
                await client.connect(f"wss://localhost:{listener.port}", ssl=trust())
                await until(lambda: len(worker.units) == 1)
                names.append(worker.units[0].identity.peer)
                ids.append(client.id)
            await until(lambda: not worker.units)
    assert names == [ids[0][:44], ids[1][:44], None] and names[0] == names[1]
    assert len(set(ids)) == 3


async def test_without_tls_there_is_nothing_to_name() -> None:
    keys = {"a": "secret"}
    for mode, comes in [("prefer", True), ("disable", True), ("require", False)]:
        async with patient(keys=keys, channel_binding=mode) as worker:
            listener = await worker.listen("127.0.0.1")
            async with patient(keys=keys) as client:
                if comes:
                    await client.connect(listener.url)
                else:
                    with pytest.raises(roletalk.AuthRefusedError, match="TLS connection"):
                        await client.connect(listener.url, permanent=False)
