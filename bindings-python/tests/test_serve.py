"""Services until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Callable

import pytest

import roletalk
from roletalk import sync

from .conftest import LIMIT, Pair, loop_factories, until
from .test_documentation import SERVICE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")

SERVING = """
import asyncio, signal, sys, time, roletalk
from roletalk import sync

def hold(role):
    @role.on_request("hold")
    def hold(ctx):
        # It may be asked before the main thread comes to serve.
        while signal.getsignal(signal.SIGTERM) is before[1]:
            time.sleep(0.001)
        print("held", flush=True)
        sys.stdin.readline()
        return "done"

async def main(count):
    peers = [roletalk.Peer(name=f"worker {n}") for n in range(count)]
    for peer in peers:
        hold(peer.role("role"))
        print((await peer.listen("127.0.0.1")).url, flush=True)
    finished = await asyncio.gather(*(peer.serve(drain=LIMIT) for peer in peers))
    print("served", *finished, flush=True)

def blocking():
    with sync.Peer(name="worker 0") as peer:
        hold(peer.role("role"))
        print(peer.listen("127.0.0.1").url, flush=True)
        print("served", peer.serve(drain=LIMIT), flush=True)

before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
if sys.argv[1] == "sync":
    blocking()
elif sys.argv[1] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
    loop.run_until_complete(main(int(sys.argv[2])))
    loop.close()
else:
    asyncio.run(main(int(sys.argv[2])))
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
print("ended", flush=True)
""".replace("LIMIT", str(LIMIT))


class Service:
    def __init__(self, kind: str, count: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVING, kind, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")

    async def ended(self) -> tuple[int, str, str]:
        out, errors = await asyncio.to_thread(self.process.communicate, None, LIMIT)
        return self.process.returncode, out, errors

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


KINDS = [*loop_factories(), "sync"]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_drains_on_a_signal(kind: str, number: signal.Signals) -> None:
    with Service(kind) as service:
        async with roletalk.Peer() as client:
            await client.connect(await service.line())
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            asked = destination.request("hold", timeout=LIMIT)
            assert await service.line() == "held"
            service.process.send_signal(number)
            # The role is withdrawn, and what is under way goes on.
            await until(lambda: not destination.units)
            assert not asked.done()
            service.go_on()
            assert await asked == "done"
            assert await service.ended() == (0, "served True\nended\n", "")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_signal_ends_the_process(kind: str, number: signal.Signals) -> None:
    with Service(kind) as service:
        async with roletalk.Peer() as client:
            await client.connect(await service.line())
            destination = client.destination("role")
            await destination.wait_ready(LIMIT)
            asked = destination.request("hold", timeout=LIMIT)
            assert await service.line() == "held"
            service.process.send_signal(number)
            await until(lambda: not destination.units)
            service.process.send_signal(number)
            # Its input is closed when it has ended, or that would let the handler go on.
            await asyncio.to_thread(service.process.wait, LIMIT)
            assert await service.ended() == (-number, "", "")
            with pytest.raises(roletalk.ConnectionLostError):
                await asked


@pytest.mark.parametrize("kind", loop_factories())
async def test_several_peers_serve_in_one_process(kind: str) -> None:
    with Service(kind, 3) as service:
        urls = [await service.line() for _ in range(3)]
        async with roletalk.Peer() as client:
            # They have begun to serve when the last one answers.
            await client.connect(urls[-1])
            service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == (0, "served True True True\nended\n", "")


async def test_serving_ends_when_the_peer_is_closed(pair: Pair) -> None:
    before = signal.getsignal(signal.SIGTERM)
    serving = asyncio.ensure_future(pair.worker.serve())
    await asyncio.sleep(0)
    assert signal.getsignal(signal.SIGTERM) is not before
    await pair.worker.close()
    assert await asyncio.wait_for(serving, LIMIT)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(roletalk.ClosedError, match=r"^The peer is closed(\n|$)"):
        await pair.worker.serve()


async def test_serving_that_is_cancelled_stops_nothing(pair: Pair) -> None:
    before = signal.getsignal(signal.SIGTERM)
    serving = asyncio.ensure_future(pair.worker.serve())
    await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled() and not pair.worker.is_closed
    assert signal.getsignal(signal.SIGTERM) is before
    destination = await pair.destination_of("role")
    assert await destination.request("echo", 1, timeout=LIMIT) == 1


def test_signals_are_heard_in_the_main_thread_only() -> None:
    errors: list[Any] = []

    async def serve() -> None:
        async with roletalk.Peer() as peer:
            await peer.serve()

    def blocking() -> None:
        with sync.Peer() as peer:
            peer.serve()

    def work() -> None:
        calls: list[Callable[[], None]] = [lambda: asyncio.run(serve()), blocking]
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 2 and all("main thread" in text for text in errors)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_the_service_of_the_readme(number: signal.Signals) -> None:
    service = SERVICE.replace("9000", "0")
    command = [sys.executable, "-W", "error", "-c", service]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        async with roletalk.Peer() as client:
            await client.connect(line.split()[-1])
            math = client.destination("math")
            await math.wait_ready(LIMIT)
            assert await math.request("add", [1, 2], timeout=LIMIT) == 3
            process.send_signal(number)
            out, errors = await asyncio.to_thread(process.communicate, None, LIMIT)
        assert (process.returncode, out, errors) == (0, "", "")
    finally:
        process.kill()
        process.communicate()
