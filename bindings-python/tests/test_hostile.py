"""What careless and hostile callers do: they get an error that says so, and nothing else changes."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, sync

from .conftest import LIMIT, Connect, Pair, until
from .test_lifecycle import OPEN, run

OPTIONS = [
    ({"name": 1}, TypeError, "str"),
    ({"tags": [("a", "b")]}, TypeError, "tags must be a mapping"),
    ({"tags": {"a": 1}}, TypeError, r"tags\['a'\] must be a str, not int"),
    ({"keys": "key"}, TypeError, "keys must be a mapping"),
    ({"limits": {}}, TypeError, "limits must be a roletalk.Limits, not dict"),
    ({"limits": roletalk.Limits(units=2**70)}, ValueError, "units must be from 0"),
    ({"limits": roletalk.Limits(units=-1)}, ValueError, "units must be from 0"),
    ({"limits": roletalk.Limits(units="1")}, TypeError, "units must be an int"),  # type: ignore[arg-type]
    ({"limits": roletalk.Limits(request_timeout=-1)}, ValueError, "request_timeout must be"),
    ({"reconnect_cap": float("nan")}, ValueError, "reconnect_cap must be a positive"),
    ({"reconnect_jitter": 2}, ValueError, "from 0 to 1"),
    ({"reconnect_jitter": "1"}, TypeError, "must be a number, not str"),
    ({"threads": 1.5}, TypeError, "threads must be an int"),
    ({"codec": object()}, TypeError, "codec must have a method `dumps`"),
    (
        {"acquaintance_ssl": True},
        TypeError,
        "must be an ssl.SSLContext or a roletalk.TlsFiles, not bool",
    ),
]


@pytest.mark.parametrize("options, error, text", OPTIONS)
def test_options_of_a_wrong_kind(options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        roletalk.Peer(**options)


CALLS: list[Any] = [
    (lambda pair: pair.worker.listen(1), TypeError, "host must be a str"),
    (lambda pair: pair.worker.listen(port="80"), TypeError, "port must be an int"),
    (lambda pair: pair.worker.listen(port=70_000), ValueError, "must be from 0 to 65535"),
    (lambda pair: pair.worker.listen(ssl=True), TypeError, "ssl.SSLContext"),
    (lambda pair: pair.worker.listen(path=1), TypeError, "path must be a str"),
    (lambda pair: pair.worker.listen(sock=1), TypeError, "sock must be a socket"),
    (lambda pair: pair.client.connect("ws://localhost:1", ssl=True), TypeError, "ssl.SSLContext"),
    (lambda pair: pair.client.connect("ws://localhost:1", headers={1: "a"}), TypeError, "headers"),
    (
        lambda pair: pair.client.connect("ws://localhost:1", headers={"a b": ""}),
        ValueError,
        "header",
    ),
    (lambda pair: pair.client.connect("ws://localhost:1", timeout=-1), ValueError, "positive"),
    (lambda pair: pair.client.connect("ws://localhost:1", timeout="1"), TypeError, "seconds"),
    (lambda pair: pair.worker.drain("1"), TypeError, "timeout must be a number"),
    (lambda pair: pair.client.destination("role").send("e", to=1), TypeError, "must be a Unit"),
    (lambda pair: pair.client.destination("none").wait_ready("1"), TypeError, "timeout must be"),
]


@pytest.mark.parametrize("call, error, text", CALLS)
async def test_arguments_of_a_wrong_kind(pair: Pair, call: Any, error: Any, text: str) -> None:
    role = pair.role()
    role.on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()
    with pytest.raises(error, match=text):
        await asyncio.wait_for(call(pair), LIMIT)
    assert not pair.client.disconnect("ws://localhost:1")
    assert role.is_active and not pair.worker.is_closed
    assert await destination.request("echo", 1) == 1


async def test_a_buffer_that_was_released(pair: Pair) -> None:
    pair.role()
    destination = await pair.destination()
    view = memoryview(b"x")
    view.release()
    with pytest.raises(roletalk.DataError, match="released"):
        destination.request("echo", view)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Surrogate(Exception):
    """As the errors of files whose names are no UTF-8."""

    def __str__(self) -> str:
        return "cannot open \udc80"


@pytest.mark.parametrize("mode", ["task", "inline", "pool"])
@pytest.mark.parametrize("kind, text", [(Mute, "Mute"), (Surrogate, "cannot open \ufffd")])
async def test_exceptions_without_usable_text(pair: Pair, mode: str, kind: Any, text: str) -> None:
    def fail(ctx: Context) -> None:
        raise kind

    async def fail_later(ctx: Context) -> None:
        raise kind

    handler: Callable[[Context], Any] = fail_later if mode == "task" else fail
    pair.role().on_request("fail", handler, inline=mode == "inline")
    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError) as refused:
        await destination.request("fail", timeout=LIMIT)
    assert str(refused.value).startswith(text)


async def test_streams_end_with_exceptions_without_usable_text(pair: Pair) -> None:
    failures: list[str] = []

    @pair.role().on_readable("upload")
    async def upload(ctx: Context) -> None:
        try:
            await ctx.accept().read()
        except roletalk.StreamClosedError as error:
            failures.append(str(error))

    destination = await pair.destination()
    for kind in (Mute, Surrogate):
        with pytest.raises(kind):
            async with destination.writable("upload"):
                raise kind
    await until(lambda: len(failures) == 2)
    assert failures[0].endswith("Mute") and "cannot open" in failures[1]


async def test_streams_that_are_garbage_in_another_thread(pair: Pair) -> None:
    ended = asyncio.Event()

    @pair.role().on_readable("upload")
    async def upload(ctx: Context) -> None:
        try:
            await ctx.accept().read()
        except roletalk.StreamClosedError:
            ended.set()

    destination = await pair.destination()
    cycle: list[Any] = [await destination.writable("upload")]
    cycle.append(cycle)
    gc.disable()
    try:
        del cycle
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    finally:
        gc.enable()
    await asyncio.wait_for(ended.wait(), LIMIT)


async def test_what_another_thread_asks_for_is_not_done(pair: Pair) -> None:
    role = pair.role()
    role.on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()
    none = pair.client.destination("none")
    errors: list[BaseException | None] = []

    def attempt(use: Callable[[], Any]) -> None:
        try:
            use()
            errors.append(None)
        except RuntimeError as error:
            errors.append(error)

    uses: list[Callable[[], Any]] = [
        role.disable,
        lambda: asyncio.run(none.wait_ready(LIMIT)),
        lambda: asyncio.run(pair.client.drain(1)),
    ]
    for use in uses:
        await asyncio.to_thread(attempt, use)
    assert all("another" in str(error) for error in errors), errors
    assert role.is_active and not pair.client.is_closed
    assert await destination.request("echo", 1) == 1


@pytest.mark.parametrize("all_of_them", [True, False])
async def test_somebody_cancels_all_tasks(all_of_them: bool) -> None:
    """That is how a loop ends, and the peer with it; of its own tasks, nobody else cancels a single one."""
    # It accepts, and never answers the TLS handshake.
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"wss://127.0.0.1:{silent.getsockname()[1]}"
    peer = roletalk.Peer()
    connecting: asyncio.Task[Any] = asyncio.ensure_future(peer.connect(url, permanent=False))
    mine = {asyncio.current_task(), connecting}

    def others() -> set[asyncio.Task[Any]]:
        found = asyncio.all_tasks() - {*mine, asyncio.current_task()}
        return {task for task in found if all_of_them or task.get_name() != "roletalk keeper"}

    await until(lambda: len(others()) > (1 if all_of_them else 0))
    for task in others():
        task.cancel()
    error, text = (
        (roletalk.ClosedError, r"^The peer is closed(\n|$)")
        if all_of_them
        else (roletalk.ConnectFailedError, "its task was cancelled")
    )
    with pytest.raises(error, match=text):
        await asyncio.wait_for(connecting, LIMIT)
    assert peer.is_closed == all_of_them
    await peer.close()
    silent.close()


class Interrupting:
    """As a codec in Python is, when the user interrupts."""

    def __init__(self, where: str) -> None:
        self.where = where

    def dumps(self, value: Any) -> str:
        if self.where == "dumps":
            raise KeyboardInterrupt
        return "[1]"

    def loads(self, text: bytes) -> Any:
        raise KeyboardInterrupt


async def test_an_interrupt_while_encoding(connect: Connect) -> None:
    pair = await connect(client={"codec": Interrupting("dumps")})
    pair.role()
    destination = await pair.destination()
    with pytest.raises(KeyboardInterrupt):
        destination.request("echo", [1])


@pytest.mark.parametrize("peer", ["worker", "client"])
def test_an_interrupt_while_decoding(peer: str) -> None:
    program = OPEN.replace('lambda ctx: "pooled"', "lambda ctx: [1], inline=True")
    program = program.replace('request("x")', 'request("x", [1])')
    program += f"""
class Codec:
    def dumps(self, value): return "[1]"
    def loads(self, text): raise KeyboardInterrupt
make = roletalk.Peer
made = []
def peer():
    made.append(1)
    return make(codec=Codec()) if len(made) == {1 if peer == "worker" else 2} else make()
roletalk.Peer = peer
try:
    asyncio.run(asyncio.wait_for(main(), {LIMIT}))
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run(program).stdout == "interrupted\n"


@pytest.mark.parametrize("attempt", range(3))
def test_the_interpreter_exits_while_a_daemon_runs_a_loop(attempt: int) -> None:
    program = (
        OPEN
        + """
import threading
busy = threading.Event()
async def work():
    await main()
    destination = client.destination("role")
    while True:
        await asyncio.gather(*(destination.request("x") for _ in range(100)))
        busy.set()
threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
busy.wait()
"""
    )
    # With checks of the interpreter's memory.
    ended = run(program, "-X", "dev")
    assert (ended.returncode, ended.stdout) == (0, "pooled\n"), ended.stderr


def test_a_blocking_peer_that_its_handler_closes() -> None:
    worker, client = sync.Peer("worker"), sync.Peer("client")
    client.connect(worker.listen("127.0.0.1").url)

    def close(ctx: Context) -> None:
        worker.close()

    worker.role("role").on_request("close", close)
    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    with pytest.raises(roletalk.ConnectionLostError):
        destination.request("close", timeout=LIMIT)
    worker.close()
    with pytest.raises(roletalk.ClosedError):
        worker.role("x")
    client.close()


def test_blocking_calls_end_with_their_peer() -> None:
    peer = sync.Peer()
    errors: list[BaseException] = []
    destination = peer.destination("role")
    waiting = threading.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def work() -> None:
        try:
            peer._loop.run(wait())
        except roletalk.ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    waiting.wait()
    peer.close()
    thread.join(LIMIT)
    assert [str(error) for error in errors] == ["The peer is closed"]
    with pytest.raises(roletalk.ClosedError):
        destination.request("x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_of_a_blocking_peer_is_told_so() -> None:
    program = """
import os, roletalk.sync
peer = roletalk.sync.Peer()
child = os.fork()
if child == 0:
    try:
        peer.role("x")
    except roletalk.ClosedError as error:
        print(error, flush=True)
    peer.close()
    os._exit(0)
os.waitpid(child, 0)
print(peer.role("x").name)
peer.close()
"""
    told = "The peer belongs to the parent process: make a new one after a fork"
    assert run(program, "-W", "ignore").stdout.splitlines() == [told, "x"]


@pytest.mark.skipif(not hasattr(asyncio, "timeout"), reason="Python 3.11 has it")
async def test_asyncio_timeout_at_every_await(pair: Pair) -> None:
    role = pair.role()
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]

    async def never(ctx: Context) -> None:
        await asyncio.Event().wait()

    async def idle(ctx: Context) -> None:
        stream = ctx.accept()
        await asyncio.Event().wait()
        stream.abort()

    role.on_request("never", never)
    for register in (role.on_readable, role.on_writable):
        register("never", never)
        register("idle", idle)
    role.on_request("echo", lambda ctx: ctx.data, inline=True)
    destination = await pair.destination()
    writer = await destination.writable("idle")
    reader = await destination.readable("idle")
    waits: list[Callable[[], Any]] = [
        lambda: destination.request("never"),
        lambda: destination.survey("never").all(),
        lambda: destination.readable("never"),
        lambda: destination.writable("never"),
        lambda: writer.write(bytes(8 << 20)),
        lambda: writer.finish(),
        lambda: reader.read(),
        lambda: reader.read(1),
        lambda: pair.client.destination("none").wait_ready(),
        lambda: pair.client.connect(f"ws://127.0.0.1:{port}", permanent=False),
        lambda: pair.unit.wait_closed(),
        lambda: pair.client.events().__anext__(),
    ]
    for wait in waits:
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.01):
                await wait()
    assert await destination.request("echo", 1) == 1
    writer.abort()
    reader.abort()
    (counters,) = pair.client.stats().units.values()
    assert (counters.waiting, counters.streams) == (0, 0)
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.01):
            await pair.worker.drain(LIMIT)
    silent.close()
