"""The programs of the documentation, word for word, but for the port and for limits of time."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

import roletalk

from .conftest import LIMIT

README = Path(__file__).parents[1] / "README.md"
PROGRAMS: list[str] = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
SERVICE, CLIENT, SUBSCRIBER, PUBLISHER, CHOICE, FAILING, *PROGRAMS = PROGRAMS
STORE, STORE_CLIENT, STOCK, SHOP, BUYER, VAULT, VAULT_CLIENT, *PROGRAMS = PROGRAMS
MACHINE, MACHINE_CLIENT, SCRIPT = PROGRAMS


class Program:
    """A process that runs a program."""

    def __init__(self, text: str, directory: Path, port: int, second: int = 0) -> None:
        assert "9000" in text or "9001" in text
        text = text.replace("9000", str(port)).replace("9001", str(second))
        text = re.sub(r"\btimeout=\d+(?!\.)", f"timeout={LIMIT}", text)
        command = [sys.executable, "-W", "error", "-c", text]
        self._process = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def finished(self, logged: str = "") -> list[str]:
        """What it has printed to its end, which must be a good one."""
        try:
            out, errors = self._process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, errors = self._process.communicate()
        assert (self._process.returncode, errors) == (0, logged), out
        return out.splitlines()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


def both(
    service: str, client: str, directory: Path, port: int, logged: str = ""
) -> tuple[str, list[str]]:
    """The first line of a service, and all of a client that runs when that is there."""
    serving = Program(service, directory, port)
    try:
        line = serving.line()
        return line, Program(client, directory, port).finished(logged)
    finally:
        serving.kill()


def test_a_service_and_a_client(tmp_path: Path, port: int) -> None:
    line, printed = both(SERVICE, CLIENT, tmp_path, port)
    assert line == f"listening on ws://127.0.0.1:{port}"
    rejected = 'rejected: The event "divide" is not handled'
    assert printed == ["3", rejected, "worker says 7"]


def test_the_quick_start_of_the_repository(tmp_path: Path, port: int) -> None:
    readme = README.parents[1] / "README.md"
    if not readme.exists():
        pytest.skip("not in the repository")
    programs = re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.M | re.S)
    service, client = programs
    line, printed = both(service, client, tmp_path, port)
    assert line == f"listening on ws://127.0.0.1:{port}"
    assert printed == ["2 + 3 = 5"]


def test_the_script(tmp_path: Path, port: int) -> None:
    assert both(SERVICE, SCRIPT, tmp_path, port)[1] == ["3"]


def test_messages_to_many(tmp_path: Path, port: int) -> None:
    publisher = Program(PUBLISHER, tmp_path, port)
    try:
        subscriber = None
        while subscriber is None:
            # The publisher says nothing before it has a subscriber: it may not listen yet.
            assert publisher.is_running
            started = Program(SUBSCRIBER, tmp_path, port)
            if started.line() == "publisher says peers need no broker":
                subscriber = started
            else:
                started.kill()
        assert publisher.finished() == ["sent to 1"]
        subscriber.kill()
    finally:
        publisher.kill()


def test_which_unit_gets_it(tmp_path: Path, port: int) -> None:
    assert both(SERVICE, CHOICE, tmp_path, port)[1] == ["3", "7", "11", "15"]


def test_when_units_fail(tmp_path: Path, port: int) -> None:
    assert both(SERVICE, FAILING, tmp_path, port)[1] == [
        "3",
        "0 0 0",
        "worker 0 0 0 None",
    ]


def test_streams(tmp_path: Path, port: int) -> None:
    assert both(STORE, STORE_CLIENT, tmp_path, port)[1] == ["of 1048576 bytes", "came 1048576"]


def test_a_deadline_across_three_services(tmp_path: Path, port: int) -> None:
    second = free_port()
    stock = Program(STOCK, tmp_path, port)
    try:
        assert stock.line() == f"listening on ws://127.0.0.1:{port}"
        shop = Program(SHOP, tmp_path, port, second)
        try:
            assert shop.line() == f"listening on ws://127.0.0.1:{second}"
            # Its second is to pass, but a busy machine is to come so far within it.
            buyer = BUYER.replace("timeout=1.0", "timeout=3.0")
            printed = Program(buyer, tmp_path, port, second).finished()
            assert printed == [
                "NOT_FOUND {'item': 'brick'} no such thing",
                "Request timeout exceeded (3000 ms)",
            ]
            assert re.fullmatch(r"Ann waits [0-3]\.\d s more", stock.line())
            assert re.fullmatch("given up: (deadline|requester)", stock.line())
        finally:
            shop.kill()
    finally:
        stock.kill()


def test_tls_and_keys(tmp_path: Path, port: int) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "service.key")
    for part in certificate.cert_chain_pems:
        part.write_to_path(tmp_path / "service.pem", append=True)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    refused = "refused: The peer has not such proofs: main"
    logged = f"authentication with wss://localhost:{port} {refused}\n"
    line, printed = both(VAULT, VAULT_CLIENT, tmp_path, port, logged)
    assert line == f"listening on wss://localhost:{port}"
    assert printed[0] == "sesame" and printed[1].startswith("refused: ")


def test_identities_and_policies(tmp_path: Path, port: int) -> None:
    line, printed = both(MACHINE, MACHINE_CLIENT, tmp_path, port)
    assert line == f"listening on ws://127.0.0.1:{port}"
    assert printed == [
        "restarted for ann",
        "NOT_ALLOWED - Not allowed by the policy of the peer",
    ]


def test_the_program_in_the_package(tmp_path: Path, port: int) -> None:
    text = re.search(
        r"::\n\n(    import asyncio.*?asyncio\.run\(main\(\)\)\n)", roletalk.__doc__, re.S
    )
    assert text is not None
    program = Program(inspect.cleandoc("\n" + text[1]), tmp_path, port)

    async def ask() -> Any:
        async with roletalk.Peer() as peer:
            try:
                await peer.connect(f"ws://127.0.0.1:{port}")
            except roletalk.ConnectFailedError:
                pass
            math = peer.destination("math")
            await math.wait_ready(LIMIT)
            return await math.request("add", {"a": 1, "b": 2}, timeout=LIMIT)

    try:
        assert asyncio.run(ask()) == 3
    finally:
        program.kill()


EXPECTED = """
import asyncio, roletalk

async def main():
    async with roletalk.Peer(name="worker") as peer:
        math = peer.role("math")

        @math.on_request("add")
        async def add(ctx):
            return ctx.data["a"] + ctx.data["b"]

        await peer.listen("127.0.0.1", 9000)          # ssl=SSLContext, path="/rt" and sock= too
        dest = peer.destination("log")
        await dest.wait_ready(timeout=5)
        await dest.send("line", "hello")
        answer = await dest.request("count", {"since": 0}, timeout=2)
        print(answer)
        async for unit_answer in dest.survey("health"):
            print(unit_answer.unit.name, unit_answer.result())
        async with dest.writable("upload", {"name": "x"}) as w:
            await w.write(b"...")
        async for chunk in dest.readable("download", "x"):
            print(chunk)
asyncio.run(main())
"""
"""Everything in one program: it serves, and uses what its partner serves."""


def test_one_program_with_everything(tmp_path: Path, port: int) -> None:
    async def partner() -> list[Any]:
        got: list[Any] = []
        async with roletalk.Peer(name="logger") as peer:
            log, math = peer.role("log"), peer.destination("math")
            log.on_message("line", lambda ctx: got.append(ctx.data), inline=True)

            @log.on_request("count")
            async def count(ctx: roletalk.Context) -> Any:
                got.append(ctx.data)
                return await math.request("add", {"a": len(got), "b": 40}, to=ctx.unit)

            log.on_request("health", lambda ctx: {"ok": True})

            @log.on_readable("upload")
            async def upload(ctx: roletalk.Context) -> None:
                got.append((ctx.data, await ctx.accept().read()))

            @log.on_writable("download")
            async def download(ctx: roletalk.Context) -> None:
                async with ctx.accept() as stream:
                    await stream.write(ctx.data.encode())

            events = peer.events()
            with pytest.raises(roletalk.ConnectFailedError):
                await peer.connect(f"ws://127.0.0.1:{port}")
            program = Program(EXPECTED, tmp_path, port)
            # It is dialed again; it ends when it has done everything.
            async for event in events:
                if isinstance(event, roletalk.UnitClosed):
                    break
            printed = await asyncio.get_running_loop().run_in_executor(None, program.finished)
        return [got, printed]

    got, printed = asyncio.run(asyncio.wait_for(partner(), LIMIT))
    assert got == ["hello", {"since": 0}, ({"name": "x"}, b"...")]
    assert printed == ["42", "logger {'ok': True}", "b'x'"]
