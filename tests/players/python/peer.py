"""The player for the Python package. See ../../README.md for the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import ssl
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import roletalk
from roletalk import Context

PERIOD = bytes(range(251))


class Json:
    """What travels as JSON, whatever its type: Python's own strings and numbers do not."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Codec:
    def dumps(self, value: Json) -> str:
        return json.dumps(value.value, ensure_ascii=False, separators=(",", ":"))

    def loads(self, text: bytes) -> Json:
        return Json(json.loads(text))


def show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def observe(event: str, **fields: Any) -> None:
    show({"event": event, **fields})


def pattern(at: int, length: int) -> bytes:
    """The bytes of all streams: their position modulo a prime."""
    shift = at % len(PERIOD)
    return (PERIOD * (length // len(PERIOD) + 2))[shift : shift + length]


class Broken(Exception):
    """This side has broken off a stream."""


class Player:
    def __init__(self, name: str, friendly: bool, keys: list[list[str]], **options: Any) -> None:
        limits = roletalk.Limits(
            stream_window=options.get("highWaterMark"),
            handshake_timeout=seconds(options.get("handshakeTimeout")),
            connection_age=seconds(options.get("connectionAge")),
        )
        keys_by_id = dict(keys)
        self.peer = roletalk.Peer(
            name,
            friendly=friendly,
            keys=keys_by_id,
            limits=limits,
            # One scenario counts the turns.
            balance=options.get("balance", "round_robin"),
            policy=options.get("policy"),
            origins=options.get("origins", ()),
            channel_binding=options.get("channelBinding", "prefer"),
            codec=Codec(),
        )
        self.held: list[asyncio.Future[None]] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.paused: dict[str, asyncio.Event] = {}
        self.written: dict[str, int] = {}
        self.pem = Path(tempfile.gettempdir(), f"roletalk-player-{os.getpid()}.pem")

    async def run(self, id: int, command: str, parameters: dict[str, Any]) -> None:
        try:
            show({"id": id, "result": await getattr(self, f"do_{command}")(**parameters)})
        except asyncio.CancelledError:
            show({"id": id, "error": "cancelled"})
        except Exception as error:
            show({"id": id, "error": str(error), **told(error)})
        finally:
            del self.tasks[id]

    # Commands.

    async def do_role(self, role: str, active: bool = True) -> None:
        self.serve(self.peer.role(role, active=active))

    async def do_handler(self, role: str, event: str, answers: Any = None) -> None:
        target = self.peer.role(role)
        if answers is None:
            target.on_message(event, lambda ctx: None, inline=True)
            target.on_request(event, lambda ctx: ctx.data, inline=True)
            return
        left = iter(answers)

        async def answer(ctx: Context) -> Any:
            seen("request", ctx)
            outcome = next(left)
            if "error" in outcome:
                raise roletalk.RejectedError(outcome["error"])
            return from_wire(outcome["result"])

        target.on_message(event, lambda ctx: seen("message", ctx), inline=True)
        target.on_request(event, answer)

    async def do_enable(self, role: str) -> None:
        self.peer.role(role).enable()

    async def do_disable(self, role: str) -> None:
        self.peer.role(role).disable()

    async def do_listen(self, tls: Any = None, host: str = "127.0.0.1", port: int = 0) -> int:
        if not tls:
            return (await self.peer.listen(host, port)).port
        with self.file(tls):
            return (await self.peer.listen(host, port, ssl=roletalk.TlsFiles(self.pem))).port

    @contextlib.contextmanager
    def file(self, tls: dict[str, str]) -> Iterator[None]:
        """Has these in a file, while it is read: a player may be killed at any other time."""
        self.pem.write_text(tls["cert"] + tls["key"])
        try:
            yield
        finally:
            self.pem.unlink()

    async def do_renew(self, tls: Any) -> None:
        with self.file(tls):
            self.peer.reload_tls()

    async def do_connect(self, url: str, ca: Any = None, once: bool = False) -> str:
        context = ssl.create_default_context(cadata=ca) if ca else None
        return (await self.peer.connect(url, ssl=context, permanent=not once)).name

    async def do_destination(self, role: str) -> None:
        self.peer.destination(role)

    async def do_events(self) -> None:
        self.peer.on()(tell)

    async def do_totals(self) -> dict[str, int]:
        stats = self.peer.stats()
        units = stats.units.values()
        return {
            "units": len(stats.units),
            "connections": sum(len(unit.connections) for unit in units),
            "waiting": sum(unit.waiting for unit in units),
            "running": sum(unit.running for unit in units),
            "streams": sum(unit.streams for unit in units),
            "queued": stats.queued,
            "handshakes": stats.handshakes,
        }

    async def do_units(self, role: str = "") -> list[str]:
        units = self.peer.destination(role).units if role else self.peer.units
        return sorted(unit.name for unit in units)

    async def do_stats(self) -> list[Any]:
        return [
            {
                **{camel_case(name): count for name, count in dataclasses.asdict(stats).items()},
                "unit": unit.name,
                "roles": unit.roles,
                "connections": len(stats.connections),
            }
            for unit, stats in self.peer.stats().units.items()
        ]

    def named(self, name: str | None) -> roletalk.Unit | None:
        if name is None:
            return None
        for unit in self.peer.units:
            if unit.name == name:
                return unit
        raise LookupError(f"there is no unit {name}")

    async def do_request(
        self,
        role: str,
        event: str,
        data: Any,
        timeout: Any = None,
        direct: bool = False,
        to: str | None = None,
    ) -> Any:
        unit = self.peer.units[0] if direct else self.named(to)
        limit = None if timeout is None else timeout / 1000
        destination = self.peer.destination(role)
        return to_wire(await destination.request(event, from_wire(data), to=unit, timeout=limit))

    async def do_ask(
        self,
        role: str,
        event: str,
        data: Any,
        timeout: Any = None,
        to: str | None = None,
        headers: Any = (),
        required: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        answer = await self.peer.destination(role).call(
            event,
            from_wire(data),
            to=self.named(to),
            timeout=seconds(timeout),
            headers=[(name, from_wire(value)) for name, value in headers],
            headers_required=required,
            traceparent=traceparent,
        )
        names = dict.fromkeys(answer.headers)
        pairs = [(name, value) for name in names for value in answer.headers.get_all(name)]
        return {
            "data": to_wire(answer.data),
            "headers": [[name, to_wire(value)] for name, value in pairs],
        }

    async def do_send(self, role: str, event: str, data: Any, direct: bool = False) -> None:
        to = self.peer.units[0] if direct else None
        await self.peer.destination(role).send(event, from_wire(data), to=to)

    async def do_flow(
        self,
        role: str,
        count: int,
        event: str = "count",
        inFlight: int | None = None,
        size: int = 0,
        to: str | None = None,
        timeout: Any = None,
        **more: int,
    ) -> Any:
        destination, unit, limit = self.peer.destination(role), self.named(to), seconds(timeout)
        by: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        failed: list[int] = []
        wrong: list[int] = []
        # All take the next number from one iterator.
        first = more.get("from", 0)
        numbers = iter(range(first, first + count))

        async def ask() -> None:
            for number in numbers:
                try:
                    payload = f"{number} ".ljust(size)
                    answer = await destination.request(event, payload, to=unit, timeout=limit)
                    answered, name = answer.split(" ", 1)
                    if int(answered) != number:
                        wrong.append(number)
                    by[name] += 1
                except roletalk.Error as error:
                    failed.append(number)
                    errors[error.kind] += 1

        await asyncio.gather(*(ask() for _ in range(count if inFlight is None else inFlight)))
        answered = count - len(failed) - len(wrong)
        return {"answered": answered, "failed": failed, "wrong": wrong, "by": by, "errors": errors}

    async def do_broadcast(self, role: str, event: str, data: Any) -> int:
        return await self.peer.destination(role).broadcast(event, from_wire(data))

    async def do_survey(self, role: str, event: str, data: Any) -> list[Any]:
        answers = await self.peer.destination(role).survey(event, from_wire(data)).all()
        return [
            {"from": answer.unit.name, "data": to_wire(answer.data)}
            if answer.error is None
            else {"from": answer.unit.name, "error": str(answer.error)}
            for answer in answers
        ]

    async def do_hold(self, role: str, count: int) -> int:
        destination = self.peer.destination(role)
        answers = await asyncio.gather(*(destination.request("hold", n) for n in range(count)))
        return sum(answer == n for n, answer in enumerate(answers))

    async def do_release(self) -> None:
        # The last first, so that an answer that finds its request by position is seen.
        while self.held:
            released = self.held.pop()
            # Its handler may have been cancelled.
            if not released.done():
                released.set_result(None)

    async def do_large(self, role: str, size: int) -> Any:
        return await self.peer.destination(role).request("length", b"\1" * size)

    async def do_upload(self, role: str, event: str, plan: Any, to: str | None = None) -> Any:
        destination, text = self.peer.destination(role), json.dumps(plan)
        return await self.write(await destination.writable(event, text, to=self.named(to)), plan)

    async def do_download(self, role: str, event: str, plan: Any, to: str | None = None) -> Any:
        destination, text = self.peer.destination(role), json.dumps(plan)
        return await self.read(await destination.readable(event, text, to=self.named(to)), plan)

    async def do_resume(self, tag: str) -> None:
        self.paused[tag].set()

    async def do_progress(self, tag: str) -> int:
        return self.written[tag]

    async def do_cancel(self, target: int) -> None:
        self.tasks[target].cancel()

    async def do_disconnect(self) -> None:
        await asyncio.gather(*(unit.close() for unit in self.peer.units))

    async def do_drain(self) -> None:
        await self.peer.drain(60)

    async def do_close(self) -> None:
        await self.peer.close()

    # Handlers.

    def serve(self, role: roletalk.Role) -> None:
        async def echo(ctx: Context) -> Any:
            seen("request", ctx)
            return ctx.data

        async def fail(ctx: Context) -> None:
            raise roletalk.RejectedError(ctx.data if isinstance(ctx.data, str) else "no such luck")

        async def throw(ctx: Context) -> None:
            raise Exception("thrown")

        async def never(ctx: Context) -> None:
            observe("ignored")
            await asyncio.Event().wait()

        async def hold(ctx: Context) -> Any:
            released = asyncio.get_running_loop().create_future()
            self.held.append(released)
            observe("held", count=len(self.held))
            await released
            return ctx.data

        def count(ctx: Context) -> str:
            number = int(ctx.data.split(" ", 1)[0])
            observe("counted", number=number)
            return f"{number} {self.peer.name}"

        async def wait(ctx: Context) -> None:
            left = ctx.remaining
            remaining = None if left is None else int(left * 1000)
            observe("waiting", remaining=remaining, traceparent=ctx.traceparent)
            try:
                await asyncio.Event().wait()
            finally:
                observe("cancelled", reason=REASONS.get(ctx.cancel_reason or "", "unknown"))

        async def relay(ctx: Context) -> Any:
            ask = ctx.data.value
            return await self.peer.destination(ask["role"]).request(ask["event"], ask["data"])

        async def headers(ctx: Context) -> None:
            for name, value in ctx.headers.items():
                ctx.set_header(name, value)

        async def failure(ctx: Context) -> None:
            told = ctx.data.value
            raise roletalk.HandlerError(
                told["text"],
                code=told["code"],
                data=Json(told["data"]),
                retry_after=told["retry"] / 1000,
            )

        async def up(ctx: Context) -> None:
            plan = plan_of(ctx)
            await settle("received", plan, self.read(ctx.accept("go on"), plan))

        async def down(ctx: Context) -> None:
            plan = plan_of(ctx)
            await settle("sent", plan, self.write(ctx.accept("go on"), plan))

        async def refuse(ctx: Context) -> None:
            raise roletalk.RejectedError(json.loads(ctx.data).get("reason", ""))

        role.on_message("note", lambda ctx: seen("message", ctx), inline=True)
        role.on_request("echo", echo)
        role.on_request("name", lambda ctx: self.peer.name, inline=True)
        role.on_request("count", count, inline=True)
        role.on_request("length", lambda ctx: len(ctx.data), inline=True)
        role.on_request("fail", fail)
        role.on_message("throw", throw)
        role.on_request("throw", throw)
        role.on_request("never", never)
        role.on_request("hold", hold)
        role.on_request("wait", wait)
        role.on_request("relay", relay)
        role.on_request("headers", headers)
        role.on_request("failure", failure)
        role.on_readable("up", up)
        role.on_writable("down", down)
        role.on_readable("refuse", refuse)
        role.on_writable("refuse", refuse)

    # Streams.

    async def read(self, stream: roletalk.Readable, plan: Any) -> Any:
        """Reads to the end, or breaks off or pauses after the first piece when the plan says so."""
        digest, size = hashlib.sha256(), 0
        async with stream:
            async for piece in stream:
                first = size == 0
                size += len(piece)
                digest.update(piece)
                if plan.get("breaks") == "reader":
                    stream.abort(plan["reason"])
                    raise Broken(plan["reason"])
                if plan.get("pauses") and first:
                    resumed = self.paused[plan["tag"]] = asyncio.Event()
                    observe("paused", tag=plan["tag"])
                    await resumed.wait()
        return {"bytes": size, "sha256": digest.hexdigest()}

    async def write(self, stream: roletalk.Writable, plan: Any) -> Any:
        """Writes what the plan says, or breaks off after it."""
        digest, at = hashlib.sha256(), 0
        self.written[plan["tag"]] = at
        async with stream:
            while at < plan["size"]:
                piece = pattern(at, min(plan["piece"], plan["size"] - at))
                digest.update(piece)
                await stream.write(piece)
                at += len(piece)
                self.written[plan["tag"]] = at
            if plan.get("breaks") == "writer":
                stream.abort(plan["reason"])
                raise Broken(plan["reason"])
        return {"bytes": at, "sha256": digest.hexdigest()}


REASONS = {"requester": "requester", "deadline": "deadline", "unit_lost": "unitLost"}


def told(error: Exception) -> dict[str, Any]:
    """What is told of an error besides its text."""
    retry = getattr(error, "retry_after", None)
    data = getattr(error, "data", None)
    return {
        "kind": getattr(error, "kind", None),
        "code": getattr(error, "code", None),
        "data": data.value if isinstance(data, Json) else data,
        "retry": None if retry is None else round(retry * 1000),
        "unhandled": getattr(error, "unhandled", False),
    }


def camel_case(name: str) -> str:
    return re.sub(r"_(.)", lambda match: match[1].upper(), name)


def plan_of(ctx: Context) -> Any:
    return (
        json.loads(ctx.data)
        if isinstance(ctx.data, str)
        else {"tag": "", "size": 1 << 22, "piece": 1 << 16}
    )


def seconds(millis: Any) -> Any:
    return None if millis is None else millis / 1000


WHAT = {
    roletalk.UnitOpened: "unit-opened",
    roletalk.UnitClosed: "unit-closed",
    roletalk.ReconnectSucceeded: "reconnected",
    roletalk.ConnectionClosed: "connection-closed",
    roletalk.BadInput: "bad-input",
    roletalk.AuthRefused: "auth-refused",
    roletalk.HandlerFailed: "handler-failed",
    roletalk.AcceptFailed: "accept-failed",
}


def tell(event: Any) -> None:
    """Observes what has happened to the peer."""
    if isinstance(event, roletalk.Denied):
        unit, kind = event.unit.name, event.kind
        observe("peer", what="denied", unit=unit, kind=kind, role=event.role)
        return
    what = WHAT.get(type(event))
    if what is None:
        return
    unit, why = (
        getattr(event, "unit", None),
        getattr(event, "error", getattr(event, "reason", None)),
    )
    fields = {
        "unit": unit and unit.name,
        "unitId": unit and unit.id,
        "kind": getattr(why, "kind", None),
    }
    observe("peer", what=what, text=str(why), address=getattr(event, "address", None), **fields)


async def settle(event: str, plan: Any, ended: Any) -> None:
    """Reports how a stream of a handler has ended."""
    try:
        observe(event, tag=plan["tag"], result=await ended)
    except Exception as error:
        observe(event, tag=plan["tag"], error=str(error))


def seen(event: str, ctx: Context) -> None:
    observe(event, role=ctx.role, **{"from": ctx.unit.name}, data=to_wire(ctx.data))


def to_wire(value: Any) -> Any:
    if value is None:
        return {"type": "null", "value": None}
    if isinstance(value, bytes):
        return {"type": "binary", "value": value.hex()}
    if isinstance(value, bool):
        return {"type": "boolean", "value": value}
    if isinstance(value, str):
        return {"type": "string", "value": value}
    if isinstance(value, (int, float)):
        return {"type": "number", "value": number_text(value)}
    return {"type": "object", "value": value.value}


def number_text(value: float) -> str:
    """As JavaScript writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return re.sub(r"e([+-])0*", r"e\1", repr(value))


def from_wire(payload: Any) -> Any:
    kind, value = payload["type"], payload["value"]
    if kind == "binary":
        return bytes.fromhex(value)
    if kind == "number":
        return int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    if kind == "object":
        return Json(value)
    return value


async def main() -> None:
    loop = asyncio.get_running_loop()

    async def next_line() -> str:
        return await loop.run_in_executor(None, sys.stdin.readline)

    start = json.loads(await next_line())
    id = start.pop("id")
    start.pop("command")
    player = Player(**start)
    show({"id": id, "result": None})
    while line := await next_line():
        command = json.loads(line)
        id, name = command.pop("id"), command.pop("command")
        player.tasks[id] = loop.create_task(player.run(id, name, command))


asyncio.run(main())
