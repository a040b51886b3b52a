"""Certificates that change while peers run."""

from __future__ import annotations

import asyncio
import os
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

import roletalk

from .conftest import LIMIT, patient

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "tls"


class Files:
    """Files that take the place of others whole."""

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        self.cert = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.ca = directory / "ca.crt"
        self.put(self.ca, authority.cert_pem.bytes())
        self.issue(authority)

    def put(self, path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, path)

    def identity(self, cert: bytes, key: bytes) -> None:
        self.put(self.cert, cert)
        self.put(self.key, key)

    def issue(self, authority: trustme.CA, **options: Any) -> None:
        self.identity(*issued(authority, **options))

    def tls(self, **options: Any) -> roletalk.TlsFiles:
        return roletalk.TlsFiles(self.cert, self.key, self.ca, **options)


def issued(authority: trustme.CA, **options: Any) -> tuple[bytes, bytes]:
    made = authority.issue_cert("localhost", **options)
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    return chain, made.private_key_pem.bytes()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


async def dial(listener: roletalk.Listener, tls: Any) -> None:
    """Connects somebody new, who leaves again."""
    async with patient(friendly=False) as newcomer:
        await newcomer.connect(f"wss://localhost:{listener.port}", ssl=tls, permanent=False)


async def test_rotation_under_load(files: Files, authority: trustme.CA) -> None:
    requests = handshakes = 0
    # Not cancelled: CPython 3.10 forgets the transport of a TLS handshake that is.
    goes_on = True
    async with patient() as worker, patient(friendly=False) as client:
        worker.role("role").on_request("echo", lambda ctx: ctx.data, inline=True)
        tls = files.tls()
        listener = await worker.listen("127.0.0.1", ssl=tls)
        await client.connect(f"wss://localhost:{listener.port}", ssl=tls)
        destination = client.destination("role")
        await destination.wait_ready(LIMIT)

        async def ask() -> None:
            nonlocal requests
            while goes_on:
                assert await destination.request("echo", 7) == 7
                requests += 1

        async def connect() -> None:
            nonlocal handshakes
            while goes_on:
                await dial(listener, tls)
                handshakes += 1

        load = [asyncio.ensure_future(ask()), asyncio.ensure_future(connect())]
        for n in range(100):
            not_after = datetime.now(timezone.utc) + timedelta(days=n + 1)
            files.issue(authority, not_after=not_after.replace(microsecond=0))
            (worker if n % 2 else client).reload_tls()
            assert tls.expires is not None
            assert tls.expires == not_after.replace(microsecond=0) == worker.tls_expires
            before = requests, handshakes
            while requests == before[0] or handshakes == before[1]:
                await asyncio.sleep(0.001)
                assert not any(task.done() for task in load), load
        goes_on = False
        await asyncio.gather(*load)


async def test_authorities_change_on_both_sides(tmp_path: Path, authority: trustme.CA) -> None:
    new = trustme.CA()
    for name in ("server", "client"):
        (tmp_path / name).mkdir()
    at_server, at_client = (Files(tmp_path / name, authority) for name in ("server", "client"))
    server, client = at_server.tls(), at_client.tls()
    async with patient() as worker:
        listener = await worker.listen("127.0.0.1", ssl=server)
        await dial(listener, client)
        both = authority.cert_pem.bytes() + new.cert_pem.bytes()
        at_server.put(at_server.ca, both)
        at_client.put(at_client.ca, both)
        at_server.issue(new)
        server.reload()
        client.reload()
        await dial(listener, client)
        at_server.put(at_server.ca, new.cert_pem.bytes())
        server.reload()
        # Over TLS 1.3, a dialer may hear of it as the end of the connection.
        with pytest.raises(roletalk.Error):
            await dial(listener, client)
        at_client.issue(new)
        client.reload()
        await dial(listener, client)


async def told(events: roletalk.Events, kind: type[Any], says: str = "") -> Any:
    async def wait() -> Any:
        async for event in events:
            if isinstance(event, kind) and says in str(event):
                return event
        raise AssertionError("the end")

    return await asyncio.wait_for(wait(), LIMIT)


async def test_files_are_watched(files: Files, authority: trustme.CA) -> None:
    expired = (DATA / "expired.pem").read_bytes(), (DATA / "key.pem").read_bytes()
    chain, key = issued(authority)
    bad = [
        ((chain[:300], key), "the PEM ends within a certificate"),
        ((b"", key), "the PEM has no certificate"),
        (expired, "a certificate has expired on"),
        ((chain, issued(authority)[1]), "KEY_VALUES_MISMATCH"),
    ]
    async with patient() as worker, patient() as client:
        events = [worker.events(), client.events()]
        listener = await worker.listen("127.0.0.1", ssl=files.tls(watch=0.005))
        tls = files.tls(watch=0.005)
        await client.connect(f"wss://localhost:{listener.port}", ssl=tls)
        for identity, says in bad:
            before = worker.tls_expires
            files.identity(*identity)
            for each in events:
                event = await told(each, roletalk.TlsReloadFailed, says)
                assert isinstance(event.error, roletalk.TlsError)
                assert f"`{files.cert}`" in str(event.error)
                assert "what was in force stays" in str(event.error)
            with pytest.raises(roletalk.TlsError, match=says):
                worker.reload_tls()
            assert worker.tls_expires == before
            await dial(listener, tls)
            files.issue(authority)
            for each in events:
                assert (await told(each, roletalk.TlsReloaded)).expires is not None
            await dial(listener, tls)


async def test_directories_behind_a_link_are_watched(tmp_path: Path, authority: trustme.CA) -> None:
    def version(name: str) -> None:
        directory = tmp_path / name
        directory.mkdir()
        chain, key = issued(authority)
        (directory / "tls.crt").write_bytes(chain)
        (directory / "tls.key").write_bytes(key)
        (tmp_path / "..data.new").symlink_to(name)
        os.replace(tmp_path / "..data.new", tmp_path / "..data")

    version("1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    tls = roletalk.TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", watch=0.005)
    async with patient() as worker:
        events = worker.events()
        await worker.listen("127.0.0.1", ssl=tls)
        version("2")
        event = await told(events, (roletalk.TlsReloaded, roletalk.TlsReloadFailed))  # type: ignore[arg-type]
        assert isinstance(event, roletalk.TlsReloaded)


async def test_what_is_set_besides_is_set_anew(files: Files) -> None:
    configured: list[ssl.SSLContext] = []
    tls = files.tls(configure=configured.append)
    assert len(configured) == 2
    tls.reload()
    assert len(set(map(id, configured))) == 4


async def test_mistakes(files: Files) -> None:
    with pytest.raises(roletalk.TlsError, match="No such file"):
        roletalk.TlsFiles(files.cert.with_name("missing"), files.key)
    with pytest.raises(roletalk.TlsError, match="has expired"):
        roletalk.TlsFiles(DATA / "expired.pem", DATA / "key.pem")
    with pytest.raises(roletalk.TlsError, match="none of the authorities is valid"):
        roletalk.TlsFiles(ca=DATA / "expired.pem")
    with pytest.raises(roletalk.InvalidArgumentError, match="`cert`"):
        roletalk.TlsFiles(key=files.key)
    with pytest.raises(roletalk.InvalidArgumentError, match="`ca`"):
        roletalk.TlsFiles()
    with pytest.raises(ValueError, match="watch"):
        files.tls(watch=0)
    with pytest.raises(TypeError, match="a path"):
        roletalk.TlsFiles(b"x")  # type: ignore[arg-type]
    async with patient() as worker:
        with pytest.raises(roletalk.InvalidArgumentError, match="a listener needs a certificate"):
            await worker.listen("127.0.0.1", ssl=roletalk.TlsFiles(ca=files.ca))
        assert worker.tls_expires is None
        worker.reload_tls()
