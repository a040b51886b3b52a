from __future__ import annotations

import asyncio
from typing import Iterator, Tuple

import pytest

import roletalk
from roletalk import sync

from .conftest import LIMIT

Pair = Tuple[sync.Peer, sync.Peer, roletalk.Unit]


@pytest.fixture
def both() -> Iterator[Pair]:
    with sync.Peer("worker") as worker, sync.Peer("client") as client:
        unit = client.connect(worker.listen("127.0.0.1").url)
        yield worker, client, unit


def test_requests_and_messages(both: Pair) -> None:
    worker, client, unit = both
    got = []
    role = worker.role("role")

    @role.on_request("double")
    def double(ctx: roletalk.Context) -> int:
        return ctx.data * 2

    @role.on_request("fail")
    async def fail(ctx: roletalk.Context) -> None:
        raise roletalk.RejectedError("no")

    role.on_message("line", lambda ctx: got.append(ctx.data), inline=True)
    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    assert destination.name == "role"
    assert [unit.name for unit in destination.units] == ["worker"] == [u.name for u in client.units]
    destination.send("line", "first", to=unit)
    assert destination.broadcast("line", "second") == 1
    assert destination.request("double", 21, timeout=LIMIT) == 42
    assert got == ["first", "second"]
    with pytest.raises(roletalk.RejectedError, match="^no$"):
        destination.request("fail")
    [answer] = destination.survey("double", 1, timeout=LIMIT)
    assert (answer.unit, answer.data) == (unit, 2)
    assert client.unit_stats(unit).messages_sent == 2
    assert client.stats().units[unit].requests_sent == 3
    role.disable()
    with pytest.raises(roletalk.RejectedError):
        destination.request("double", to=unit)


def test_streams(both: Pair) -> None:
    worker, client, _ = both
    role = worker.role("role")
    sizes = []

    @role.on_readable("upload")
    async def upload(ctx: roletalk.Context) -> None:
        sizes.append(len(await ctx.accept("go").read()))

    @role.on_writable("download")
    async def download(ctx: roletalk.Context) -> None:
        async with ctx.accept() as stream:
            await stream.write(b"x" * ctx.data)

    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    with destination.writable("upload") as writer:
        assert writer.answer == "go"
        writer.write(b"y" * 200_000)
    assert sizes == [200_000]
    with destination.readable("download", 300_000) as reader:
        assert sum(len(chunk) for chunk in reader) == 300_000
    assert destination.readable("download", 10).read() == b"x" * 10


def test_errors_and_the_end(both: Pair) -> None:
    _, client, _ = both
    with pytest.raises(roletalk.InvalidArgumentError):
        client.connect("http://localhost")
    assert not client.disconnect("ws://localhost")
    with pytest.raises(roletalk.InvalidArgumentError):
        sync.Peer(keys={"": ""})
    assert client.drain(LIMIT)
    client.close()
    with pytest.raises(roletalk.ClosedError, match="is closed"):
        client.destination("role")


async def test_inside_of_a_loop(both: Pair) -> None:
    with pytest.raises(RuntimeError, match="use roletalk inside"):
        both[1].destination("role")
    await asyncio.sleep(0)
