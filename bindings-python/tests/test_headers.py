"""Headers and trace context: they go with messages, requests, streams and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, Headers, Next

from .conftest import LIMIT, Chain, Connect, Pair, until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00"
GIVEN: dict[str, str | bytes] = {
    "tenant": "blue",
    "text": "ж",
    "raw": b"\xff\x00",
    "no_text": "",
    "no.bytes": b"",
}

Sending = Callable[..., Any]


async def opened(stream: Any) -> None:
    async with stream:
        pass


SENDING: dict[str, Callable[[roletalk.Destination], Sending]] = {
    "request": lambda to: lambda **options: to.request("look", **options),
    "call": lambda to: lambda **options: to.call("look", **options),
    "send": lambda to: lambda **options: to.send("look", **options),
    "broadcast": lambda to: lambda **options: to.broadcast("look", **options),
    "survey": lambda to: lambda **options: to.survey("look", **options).all(),
    "readable": lambda to: lambda **options: opened(to.readable("look", **options)),
    "writable": lambda to: lambda **options: opened(to.writable("look", **options)),
}


class Looks:
    """Handlers of all kinds that tell what came with it."""

    def __init__(self, role: roletalk.Role, inline: bool = False) -> None:
        self.seen: list[dict[str, Any]] = []
        role.on_readable("look", self.stream)
        role.on_writable("look", self.stream)
        handler = self.look if inline else self.look_later
        role.on_request("look", handler, inline=inline)
        role.on_message("look", handler, inline=inline)

    def look(self, ctx: Context) -> None:
        self.seen.append(
            {
                "headers": ctx.headers,
                "trace": (ctx.traceparent, ctx.tracestate, ctx.baggage),
                "kind": ctx.kind,
            }
        )
        assert ctx.headers is ctx.headers and ctx.with_data(1).headers is ctx.headers

    async def look_later(self, ctx: Context) -> None:
        self.look(ctx)

    async def stream(self, ctx: Context) -> None:
        self.look(ctx)
        async with ctx.accept() as stream:
            if ctx.kind == "readable":
                await stream.read()

    async def next(self) -> dict[str, Any]:
        await until(lambda: bool(self.seen))
        return self.seen.pop()


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("way", SENDING)
async def test_headers_arrive_as_what_they_were(pair: Pair, way: str, inline: bool) -> None:
    looks = Looks(pair.role(), inline)
    send = SENDING[way](await pair.destination())
    await send(headers=GIVEN)
    headers = (await looks.next())["headers"]
    assert dict(headers) == GIVEN and isinstance(headers, Headers)
    assert {name: type(value) for name, value in headers.items()} == {
        name: type(value) for name, value in GIVEN.items()
    }
    await send()
    assert (await looks.next())["headers"] == {}
    await send(traceparent=TRACE, tracestate="a=b", baggage="c=d")
    seen = await looks.next()
    assert (seen["trace"], dict(seen["headers"])) == ((TRACE, "a=b", "c=d"), {})
    await send(headers={"x": "y"}, traceparent=TRACE)
    seen = await looks.next()
    assert (seen["trace"], dict(seen["headers"])) == ((TRACE, None, None), {"x": "y"})


@pytest.mark.parametrize("kind", ["mapping", "pairs", "iterator", "headers"])
async def test_names_may_come_more_than_once(pair: Pair, kind: str) -> None:
    looks = Looks(pair.role())
    destination = await pair.destination()
    pairs: list[tuple[str, Any]] = [("a", "1"), ("b", b"2"), ("a", b"3"), ("a", "4")]
    given: Any = {
        "mapping": dict(pairs),
        "pairs": pairs,
        "iterator": (pair for pair in pairs),
        "headers": Headers(pairs),
    }[kind]
    # Also to several units, and behind a wait for room.
    await destination.survey("look", headers=given).all()
    headers: Headers = (await looks.next())["headers"]
    if kind == "mapping":
        assert headers.pairs() == [("a", "4"), ("b", b"2")]
        return
    assert headers.pairs() == pairs
    assert (headers["a"], headers.get("a"), headers["b"]) == ("1", "1", b"2")
    assert headers.get_all("a") == ["1", b"3", "4"] and headers.get_all("c") == []
    assert list(headers) == ["a", "b"] and len(headers) == 2 and "a" in headers
    assert isinstance(headers, Mapping) and "c" not in headers
    assert repr(headers) == "<Headers a, b>" and repr(Headers()) == "<Headers>"
    with pytest.raises(KeyError):
        headers["c"]
    with pytest.raises(TypeError):
        headers["a"] = "x"  # type: ignore[index]
    assert headers == {"a": "1", "b": b"2"} and hash(headers) == hash(Headers(pairs))


async def test_headers_are_sent_on(chain: Chain) -> None:
    looks = Looks(chain.last)

    @chain.first.on_request("ask")
    async def ask(ctx: Context) -> None:
        await chain.to_end.request("look", headers=ctx.headers)
        await chain.to_end.request("look")

    pairs = [("a", "1"), ("a", "2")]
    await chain.to_middle.request("ask", headers=pairs)
    assert [seen["headers"].pairs() for seen in looks.seen] == [pairs, []]


@pytest.mark.parametrize("way", SENDING)
async def test_8_KiB_pass_and_no_more(pair: Pair, way: str) -> None:
    looks = Looks(pair.role())
    send = SENDING[way](await pair.destination())
    value = "x" * (8192 - len("name"))
    await send(headers={"name": value})
    assert (await looks.next())["headers"] == {"name": value}
    limit = "The headers have 8193 bytes, more than the limit of 8192"
    for larger in ({"name": value + "x"}, {"name": value, "a": ""}):
        with pytest.raises(roletalk.TooLargeError, match=f"^{limit}"):
            await send(headers=larger)
    many = [("n", "") for _ in range(128)]
    await send(headers=many)
    assert len((await looks.next())["headers"].get_all("n")) == 128
    with pytest.raises(roletalk.TooLargeError, match="more than 128 headers"):
        await send(headers=[*many, ("n", "")])
    assert looks.seen == []


@pytest.mark.parametrize("way", SENDING)
async def test_what_are_no_headers(pair: Pair, way: str) -> None:
    looks = Looks(pair.role())
    send = SENDING[way](await pair.destination())
    for name in ("", "A", "a b", "rt-x", "ж", "x" * 129):
        with pytest.raises(roletalk.InvalidArgumentError, match=r"^The header name "):
            await send(headers={name: "x"})
    for wrong in (1, "text", b"bytes", ["text"], [("a", "b", "c")], [1]):
        with pytest.raises(TypeError, match="headers must be a mapping"):
            await send(headers=wrong)
    with pytest.raises(TypeError, match="the header a must be str or bytes, not int"):
        await send(headers={"a": 1})
    with pytest.raises(TypeError, match="the name of a header must be a str, not bytes"):
        await send(headers={b"a": "x"})
    with pytest.raises(roletalk.DataError, match="surrogates"):
        await send(headers={"a": "\ud800"})
    for parent in ("", "x", TRACE[:-1], TRACE.upper()):
        with pytest.raises(roletalk.InvalidArgumentError, match=r"^traceparent is not of the form"):
            await send(traceparent=parent)
    with pytest.raises(roletalk.TooLargeError, match=r"^tracestate has 513 bytes"):
        await send(traceparent=TRACE, tracestate="x" * 513)
    with pytest.raises(roletalk.TooLargeError, match=r"^baggage has 8193 bytes"):
        await send(baggage="x" * 8193)
    with pytest.raises(roletalk.InvalidArgumentError, match="need a traceparent"):
        await send(baggage="a=b")
    await send(headers={"a": bytearray(b"x"), "b": memoryview(b"y")})
    assert (await looks.next())["headers"] == {"a": b"x", "b": b"y"}


# Answers.


@pytest.mark.parametrize("kind", ["task", "thread", "inline"])
async def test_answers_have_headers(pair: Pair, kind: str) -> None:
    def answer(ctx: Context) -> Any:
        for name, value in ctx.headers.items():
            ctx.set_header(name, value)
            ctx.with_data("changed").set_header("with-data", "too")
        return ctx.data

    async def later(ctx: Context) -> Any:
        return answer(ctx)

    handler: Callable[[Context], Any] = later if kind == "task" else answer
    pair.role().on_request("answer", handler, inline=kind == "inline")
    destination = await pair.destination()
    given = await destination.call("answer", [1], headers=GIVEN)
    assert given == roletalk.Answer([1], Headers({**GIVEN, "with-data": "too"}.items()))
    assert await destination.request("answer", [1], headers=GIVEN) == [1]
    assert await destination.call("answer") == roletalk.Answer(None, Headers())
    [one] = await destination.survey("answer", 7, headers={"a": "b"}).all()
    assert (one.data, dict(one.headers)) == (7, {"a": "b", "with-data": "too"})


async def test_headers_of_answers_are_set_once_each(pair: Pair) -> None:
    kept: list[Context] = []

    @pair.role().on_request("answer")
    async def answer(ctx: Context) -> None:
        kept.append(ctx)
        ctx.set_header("a", "1")
        ctx.set_header("b", b"2")
        ctx.set_header("a", b"3")
        for name, value in (("A", "x"), ("", "x"), ("rt-x", "x")):
            with pytest.raises(roletalk.InvalidArgumentError):
                ctx.set_header(name, value)
        with pytest.raises(roletalk.TooLargeError):
            ctx.set_header("c", "x" * 8192)
        with pytest.raises(TypeError):
            ctx.set_header("c", 1)  # type: ignore[arg-type]

    destination = await pair.destination()
    given = await destination.call("answer")
    assert dict(given.headers) == {"a": b"3", "b": b"2"}
    with pytest.raises(RuntimeError, match="it was answered already"):
        kept[0].set_header("a", "b")


async def test_messages_have_no_answer(pair: Pair) -> None:
    seen: list[str] = []

    def tell(ctx: Context) -> None:
        with pytest.raises(TypeError) as raised:
            ctx.set_header("a", "b")
        seen.append(str(raised.value))

    pair.role().on_message("tell", tell, inline=True)
    destination = await pair.destination()
    await destination.send("tell")
    await until(lambda: seen == ["a message has no answer"])


@pytest.mark.parametrize("kind", ["readable", "writable"])
async def test_streams_are_accepted_with_headers(pair: Pair, kind: str) -> None:
    async def stream(ctx: Context) -> None:
        ctx.set_header("size", "7")
        if ctx.data == "refuse":
            raise roletalk.RejectedError("refused")
        async with ctx.accept("here") as opened:
            with pytest.raises(RuntimeError, match="it was answered already"):
                ctx.set_header("late", "x")
            if ctx.kind == "readable":
                await opened.read()

    role = pair.role()
    role.on_readable("stream", stream)
    role.on_writable("stream", stream)
    destination = await pair.destination()
    open_stream: Callable[..., Any] = getattr(destination, kind)
    unopened = open_stream("stream")
    assert (unopened.answer, unopened.headers) == (None, {})
    async with unopened as stream_of_it:
        assert (stream_of_it.answer, dict(stream_of_it.headers)) == ("here", {"size": "7"})
    with pytest.raises(roletalk.RejectedError) as raised:
        await open_stream("stream", "refuse")
    assert dict(raised.value.headers) == {"size": "7"}


async def test_rejections_have_headers(pair: Pair) -> None:
    @pair.role().on_request("reject")
    async def reject(ctx: Context) -> None:
        ctx.set_header("tried", "2")
        raise roletalk.HandlerError("no", code="NO")

    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError) as raised:
        await destination.request("reject")
    assert (raised.value.code, dict(raised.value.headers)) == ("NO", {"tried": "2"})
    [answer] = await destination.survey("reject").all()
    assert dict(answer.headers) == {"tried": "2"} and answer.data is None


async def test_middleware_reads_and_sets(pair: Pair) -> None:
    seen: list[Any] = []

    @pair.worker.middleware
    async def layer(ctx: Context, call_next: Next) -> Any:
        seen.append(ctx.headers.get("token"))
        ctx.set_header("served-by", "worker")
        return await call_next(ctx.with_data([ctx.data]))

    pair.role().on_request("echo", lambda ctx: [ctx.data, ctx.headers["token"]])
    destination = await pair.destination()
    answer = await destination.call("echo", 1, headers={"token": "secret"})
    assert answer.data == [[1], "secret"] and dict(answer.headers) == {"served-by": "worker"}
    assert seen == ["secret"]


# Who does not take them.


@pytest.mark.parametrize("way", SENDING)
async def test_they_are_left_out_or_required(plain: str, connect: Connect, way: str) -> None:
    pair = await connect()
    looks = Looks(pair.role())
    send = SENDING[way](await pair.destination())
    await send(headers=GIVEN, traceparent=TRACE)
    seen = await looks.next()
    assert (dict(seen["headers"]), seen["trace"]) == ({}, (None, None, None))
    assert pair.unit.stats().fields_left_out == 1
    if way == "survey":
        [answer] = await send(headers=GIVEN, headers_required=True)
        assert isinstance(answer.error, roletalk.UnsupportedError)
    else:
        with pytest.raises(roletalk.UnsupportedError):
            await send(headers=GIVEN, headers_required=True)
    # Of nothing, nothing is required.
    await send(headers={}, headers_required=True)
    assert dict((await looks.next())["headers"]) == {}


async def test_answers_to_who_does_not_take_them(plain: str, connect: Connect) -> None:
    pair = await connect()

    @pair.role().on_request("answer")
    async def answer(ctx: Context) -> str:
        ctx.set_header("a", "b")
        return "data"

    destination = await pair.destination()
    assert await destination.call("answer") == roletalk.Answer("data", Headers())
    [unit] = pair.worker.units
    assert unit.stats().fields_left_out == 1


async def test_those_that_take_them_are_chosen(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await connect(client={"balance": "round_robin"})
    looks = Looks(pair.role())
    make = roletalk._engine.Engine
    with monkeypatch.context() as patch:
        patch.setattr(
            roletalk._engine, "Engine", lambda **options: make(extensions=False, **options)
        )
        old = roletalk.Peer("old")
    async with old:
        other = Looks(old.role("role"))
        await pair.client.connect((await old.listen("127.0.0.1")).url)
        destination = await pair.destination()
        await until(lambda: len(destination.units) == 2)
        for _ in range(10):
            await destination.request("look", headers=GIVEN, headers_required=True)
            await opened(destination.readable("look", headers=GIVEN, headers_required=True))
        await destination.send("look", headers=GIVEN, headers_required=True)
        await until(lambda: len(looks.seen) == 21)
        assert other.seen == []
        for _ in range(2):
            await destination.request("look", headers=GIVEN)
        assert len(other.seen) == 1


# Trace context.


@pytest.mark.parametrize("way", SENDING)
@pytest.mark.parametrize("kind", ["request", "message", "task", "inline", "thread"])
async def test_the_trace_goes_on(chain: Chain, way: str, kind: str) -> None:
    looks = Looks(chain.last)
    sending = SENDING[way](chain.to_end)
    loop = asyncio.get_running_loop()
    tasks: list[Any] = []

    async def send() -> None:
        await sending()

    async def handle(ctx: Context) -> None:
        await send()

    async def handle_in_task(ctx: Context) -> None:
        await asyncio.create_task(send())

    def handle_inline(ctx: Context) -> None:
        tasks.append(loop.create_task(send()))

    def handle_in_thread(ctx: Context) -> None:
        asyncio.run_coroutine_threadsafe(send(), loop).result(LIMIT)

    handler: Callable[[Context], Any] = {
        "task": handle_in_task,
        "inline": handle_inline,
        "thread": handle_in_thread,
    }.get(kind, handle)
    chain.first.on_request("work", handler, inline=kind == "inline")
    chain.first.on_message("work", handler, inline=kind == "inline")
    ask = chain.to_middle.send if kind == "message" else chain.to_middle.request
    await ask("work", traceparent=TRACE, tracestate="a=b", baggage="c=d", headers=GIVEN)
    seen = await looks.next()
    # Headers are not inherited.
    assert (seen["trace"], dict(seen["headers"])) == ((TRACE, "a=b", "c=d"), {})
    await ask("work")
    assert (await looks.next())["trace"] == (None, None, None)


async def test_what_is_set_goes_before_what_is_inherited(chain: Chain) -> None:
    looks = Looks(chain.last)
    cases: list[tuple[dict[str, Any], tuple[str | None, ...]]] = [
        ({}, (TRACE, "a=b", "c=d")),
        ({"headers": {"x": "y"}}, (TRACE, "a=b", "c=d")),
        ({"traceparent": OTHER}, (OTHER, None, "c=d")),
        ({"traceparent": OTHER, "tracestate": "e=f"}, (OTHER, "e=f", "c=d")),
        ({"traceparent": OTHER, "baggage": "g=h"}, (OTHER, None, "g=h")),
        ({"traceparent": OTHER, "baggage": ""}, (OTHER, None, None)),
        ({"tracestate": "e=f"}, (TRACE, "e=f", "c=d")),
        ({"baggage": "g=h"}, (TRACE, "a=b", "g=h")),
        ({"baggage": ""}, (TRACE, "a=b", None)),
        ({"inherit": False}, (None, None, None)),
        ({"inherit": False, "traceparent": OTHER}, (OTHER, None, None)),
    ]

    @chain.first.on_request("work")
    async def work(ctx: Context) -> None:
        for options, _ in cases:
            await chain.to_end.request("look", **options)

    await chain.to_middle.request("work", traceparent=TRACE, tracestate="a=b", baggage="c=d")
    assert [seen["trace"] for seen in looks.seen] == [expected for _, expected in cases]


async def test_the_trace_outlives_the_handler(chain: Chain) -> None:
    looks = Looks(chain.last)
    tasks: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async def background() -> None:
        await go.wait()
        await chain.to_end.request("look")

    @chain.first.on_request("begin")
    async def begin(ctx: Context) -> None:
        tasks.append(asyncio.create_task(background()))

    await chain.to_middle.request("begin", traceparent=TRACE)
    go.set()
    await tasks[0]
    assert looks.seen[0]["trace"][0] == TRACE


def test_blocking_peers() -> None:
    from roletalk import sync

    with sync.Peer("worker") as worker, sync.Peer("client") as client:

        def answer(ctx: Context) -> Any:
            ctx.set_header("got", ctx.headers["sent"])
            return ctx.traceparent

        async def stream(ctx: Context) -> None:
            ctx.set_header("got", ctx.headers["sent"])
            async with ctx.accept():
                pass

        role = worker.role("role")
        role.on_request("answer", answer)
        role.on_writable("stream", stream)
        client.connect(worker.listen("127.0.0.1").url)
        destination = client.destination("role")
        destination.wait_ready(LIMIT)
        answered = destination.call("answer", headers={"sent": b"x"}, traceparent=TRACE)
        assert answered == roletalk.Answer(TRACE, Headers([("got", b"x")]))
        with destination.readable("stream", headers=[("sent", "y")]) as opened_stream:
            assert dict(opened_stream.headers) == {"got": "y"}
        [one] = destination.survey("answer", headers={"sent": "z"})
        assert dict(one.headers) == {"got": "z"}
