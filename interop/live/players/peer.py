"""The player for the Python package: ``python peer.py``. See ../../README.md for the protocol."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

import roletalk

LINE = 64 << 20
"""Bytes of the longest command."""

PERIOD = bytes(range(251))
"""The bytes of all streams: their position modulo a prime."""

Plan = Dict[str, Any]
Wire = Dict[str, Any]


def say(line: Dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def observe(event: str, **fields: Any) -> None:
    say({"event": event, **fields})


def to_wire(data: Any) -> Wire:
    if data is None:
        return {"type": "null", "value": None}
    if isinstance(data, bytes):
        return {"type": "binary", "value": data.hex()}
    if isinstance(data, bool):
        return {"type": "boolean", "value": data}
    if isinstance(data, str):
        return {"type": "string", "value": data}
    if isinstance(data, int):
        return {"type": "number", "value": str(data)}
    if isinstance(data, float):
        return {"type": "number", "value": repr(data).replace("inf", "Infinity").replace("nan", "NaN")}
    return {"type": "object", "value": data}


def from_wire(data: Wire) -> Any:
    kind, value = data["type"], data["value"]
    if kind == "binary":
        return bytes.fromhex(value)
    if kind == "number":
        return int(value) if value.lstrip("-").isdigit() else float(value)
    return value


def pattern(at: int, length: int) -> bytes:
    shift = at % len(PERIOD)
    return (PERIOD * ((shift + length) // len(PERIOD) + 1))[shift : shift + length]


class Streams:
    """All streams, by the tags of their plans."""

    def __init__(self) -> None:
        self._paused: Dict[str, asyncio.Event] = {}
        self.progress: Dict[str, int] = {}
        """Bytes that the writers have got rid of."""

    async def read(self, stream: roletalk.Readable, plan: Plan) -> Dict[str, Any]:
        """Reads to the end, or breaks off or pauses after the first piece when the plan says so."""
        digest, size = hashlib.sha256(), 0
        async for piece in stream:
            first = size == 0
            size += len(piece)
            digest.update(piece)
            if plan.get("breaks") == "reader":
                stream.abort(plan["reason"])
                raise RuntimeError(plan["reason"])
            if plan.get("pauses") and first:
                resumed = self._paused[plan["tag"]] = asyncio.Event()
                observe("paused", tag=plan["tag"])
                await resumed.wait()
        return {"bytes": size, "sha256": digest.hexdigest()}

    async def write(self, stream: roletalk.Writable, plan: Plan) -> Dict[str, Any]:
        """Writes what the plan says, or breaks off behind it."""
        digest, at = hashlib.sha256(), 0
        self.progress[plan["tag"]] = at
        while at < plan["size"]:
            piece = pattern(at, min(plan["piece"], plan["size"] - at))
            digest.update(piece)
            await stream.write(piece)
            at += len(piece)
            self.progress[plan["tag"]] = at
        if plan.get("breaks") == "writer":
            stream.abort(plan["reason"])
            raise RuntimeError(plan["reason"])
        await stream.finish()
        return {"bytes": at, "sha256": digest.hexdigest()}

    def resume(self, tag: str) -> None:
        self._paused.pop(tag).set()


async def settle(event: str, plan: Plan, ended: Awaitable[Dict[str, Any]]) -> None:
    """Reports how a stream of a handler has ended."""
    try:
        observe(event, tag=plan["tag"], result=await ended)
    except Exception as error:
        observe(event, tag=plan["tag"], error=str(error))


class Player:
    """One peer, and its commands: the methods named ``do_…``."""

    def __init__(
        self, name: str, friendly: bool, keys: List[Tuple[str, str]], window: Optional[int]
    ) -> None:
        self.peer = roletalk.Peer(
            name,
            friendly=friendly,
            keys=dict(keys),
            limits=roletalk.Limits(stream_window=window),
        )
        self.streams = Streams()
        self.held: List[asyncio.Future[None]] = []
        self.tasks: Dict[int, asyncio.Task[None]] = {}

    def perform(self, line: Dict[str, Any]) -> None:
        """Carries out a command beside the others."""
        number = line.pop("id")
        command: Callable[..., Awaitable[Any]] = getattr(self, f"do_{line.pop('command')}")
        task = asyncio.create_task(self._answer(number, command(**line)))
        self.tasks[number] = task
        task.add_done_callback(lambda _: self.tasks.pop(number))

    async def _answer(self, number: int, result: Awaitable[Any]) -> None:
        try:
            say({"id": number, "result": await result})
        except asyncio.CancelledError:
            say({"id": number, "error": "cancelled"})
        except Exception as error:
            say({"id": number, "error": str(error)})

    def _to(self, direct: bool) -> Optional[roletalk.Unit]:
        return self.peer.units[0] if direct else None

    async def do_role(self, role: str, active: bool = True) -> None:
        self.serve(self.peer.role(role, active=active))

    async def do_enable(self, role: str) -> None:
        self.peer.role(role).enable()

    async def do_disable(self, role: str) -> None:
        self.peer.role(role).disable()

    async def do_listen(self, tls: Optional[Dict[str, str]] = None) -> int:
        context = None if tls is None else server_context(tls["cert"], tls["key"])
        listener = await self.peer.listen("127.0.0.1", 0, ssl=context)
        return listener.port

    async def do_connect(self, url: str, ca: Optional[str] = None) -> str:
        context = None if ca is None else ssl.create_default_context(cadata=ca)
        unit = await self.peer.connect(url, ssl=context)
        return unit.name

    async def do_destination(self, role: str) -> None:
        self.peer.destination(role)

    async def do_units(self, role: Optional[str] = None) -> List[str]:
        units = self.peer.units if role is None else self.peer.destination(role).units
        return sorted(unit.name for unit in units)

    async def do_request(
        self,
        role: str,
        event: str,
        data: Wire,
        timeout: Optional[int] = None,
        direct: bool = False,
    ) -> Wire:
        seconds = None if timeout is None else timeout / 1000
        destination = self.peer.destination(role)
        return to_wire(
            await destination.request(event, from_wire(data), to=self._to(direct), timeout=seconds)
        )

    async def do_hold(self, role: str, count: int) -> int:
        destination = self.peer.destination(role)
        answers = await asyncio.gather(
            *(destination.request("hold", number) for number in range(count))
        )
        return sum(answer == number for number, answer in enumerate(answers))

    async def do_release(self) -> None:
        # The last first, so that an answer that finds its request by position is seen.
        while self.held:
            self.held.pop().set_result(None)

    async def do_large(self, role: str, size: int) -> Any:
        return await self.peer.destination(role).request("length", b"\1" * size)

    async def do_send(self, role: str, event: str, data: Wire, direct: bool = False) -> None:
        await self.peer.destination(role).send(event, from_wire(data), to=self._to(direct))

    async def do_upload(self, role: str, event: str, plan: Plan) -> Dict[str, Any]:
        destination = self.peer.destination(role)
        async with destination.writable(event, json.dumps(plan)) as stream:
            return await self.streams.write(stream, plan)

    async def do_download(self, role: str, event: str, plan: Plan) -> Dict[str, Any]:
        destination = self.peer.destination(role)
        async with destination.readable(event, json.dumps(plan)) as stream:
            return await self.streams.read(stream, plan)

    async def do_resume(self, tag: str) -> None:
        self.streams.resume(tag)

    async def do_progress(self, tag: str) -> int:
        return self.streams.progress[tag]

    async def do_cancel(self, target: int) -> None:
        self.tasks[target].cancel()

    async def do_disconnect(self) -> None:
        await asyncio.gather(*(unit.close() for unit in self.peer.units))

    async def do_drain(self) -> None:
        await self.peer.drain(60)

    def serve(self, role: roletalk.Role) -> None:
        """What every role of a player does."""

        def seen(ctx: roletalk.Context) -> Dict[str, Any]:
            return {"role": role.name, "from": ctx.unit.name, "data": to_wire(ctx.data)}

        @role.on_message("note", inline=True)
        def note(ctx: roletalk.Context) -> None:
            observe("message", **seen(ctx))

        @role.on_request("echo")
        async def echo(ctx: roletalk.Context) -> Any:
            observe("request", **seen(ctx))
            return ctx.data

        @role.on_request("name", inline=True)
        def name(ctx: roletalk.Context) -> str:
            return self.peer.name

        @role.on_request("length")
        def length(ctx: roletalk.Context) -> int:
            return len(ctx.data)

        @role.on_request("fail")
        def fail(ctx: roletalk.Context) -> None:
            raise roletalk.RejectedError(ctx.data if isinstance(ctx.data, str) else "no such luck")

        @role.on_request("never")
        async def never(ctx: roletalk.Context) -> None:
            observe("ignored")
            await asyncio.get_running_loop().create_future()

        @role.on_request("hold")
        async def hold(ctx: roletalk.Context) -> Any:
            released = asyncio.get_running_loop().create_future()
            self.held.append(released)
            observe("held", count=len(self.held))
            await released
            return ctx.data

        @role.on_readable("up")
        async def up(ctx: roletalk.Context) -> None:
            plan = json.loads(ctx.data)
            await settle("received", plan, self.streams.read(ctx.accept("go on"), plan))

        @role.on_writable("down")
        async def down(ctx: roletalk.Context) -> None:
            plan = json.loads(ctx.data)
            await settle("sent", plan, self.streams.write(ctx.accept("go on"), plan))

        @role.on_readable("refuse")
        @role.on_writable("refuse")
        async def refuse(ctx: roletalk.Context) -> None:
            raise roletalk.RejectedError(json.loads(ctx.data)["reason"])


def server_context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # It only loads from files.
    with tempfile.TemporaryDirectory() as directory:
        pem = Path(directory, "server.pem")
        pem.write_text(key + cert)
        context.load_cert_chain(pem)
    return context


async def main() -> None:
    commands = asyncio.StreamReader(limit=LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    player: Optional[Player] = None
    while text := await commands.readline():
        line = json.loads(text)
        if player is None:
            window = line.get("highWaterMark")
            player = Player(line["name"], line["friendly"], line["keys"], window)
            say({"id": line["id"], "result": None})
        else:
            player.perform(line)
    if player is not None:
        await player.peer.close()


asyncio.run(main())
