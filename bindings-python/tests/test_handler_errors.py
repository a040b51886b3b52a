"""What handlers say of failures comes back: text, code, data, when to try again; and whether it began."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Context, HandlerError, Next, RejectedError

from .conftest import LIMIT, Chain, Connect, Pair, until

FAILURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "code": {"code": "NOT_FOUND"},
    "empty code": {"code": ""},
    "data": {"data": {"id": [1, 2.5, None, "ж"], "large": 1 << 70}},
    "data that is no object": {"data": "text"},
    "false": {"data": False},
    "retry": {"retry_after": 1.5},
    "at once": {"retry_after": 0},
    "all": {"code": "BUSY", "data": [1], "retry_after": 0.25},
}


def said(error: Any) -> tuple[Any, ...]:
    assert type(error) is RejectedError
    return str(error), error.code, error.data, error.retry_after, error.unhandled


async def rejected(destination: roletalk.Destination, *arguments: Any) -> RejectedError:
    with pytest.raises(RejectedError) as raised:
        await destination.request(*arguments)
    return raised.value


@pytest.mark.parametrize("kind", ["task", "thread", "inline"])
async def test_it_comes_back(pair: Pair, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(ctx: Context) -> None:
        raise HandlerError("no", **FAILURES[ctx.data])

    async def fail_later(ctx: Context) -> None:
        fail(ctx)

    handler: Callable[[Context], Any] = fail_later if kind == "task" else fail
    pair.role().on_request("fail", handler, inline=kind == "inline")
    destination = await pair.destination()
    for name, failure in FAILURES.items():
        expected = ("no", *(failure.get(part) for part in ("code", "data", "retry_after")), False)
        assert said(await rejected(destination, "fail", name)) == expected, name
        [answer] = await destination.survey("fail", name).all()
        assert said(answer.error) == expected
        with pytest.raises(RejectedError) as raised:
            await destination.call("fail", name)
        assert said(raised.value) == expected
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("kind", ["readable", "writable"])
async def test_streams_are_refused_with_it(pair: Pair, kind: str) -> None:
    async def refuse(ctx: Context) -> None:
        raise HandlerError("no", code="NO", data={"a": 1}, retry_after=3)

    role = pair.role()
    role.on_readable("fail", refuse)
    role.on_writable("fail", refuse)
    destination = await pair.destination()
    with pytest.raises(RejectedError) as raised:
        await getattr(destination, kind)("fail")
    assert said(raised.value) == ("no", "NO", {"a": 1}, 3.0, False)


async def test_the_codec_makes_the_data(connect: Connect) -> None:
    class Codec:
        def dumps(self, value: Any) -> bytes:
            return b'{"made":"of ' + type(value).__name__.encode() + b'"}'

        def loads(self, text: bytes) -> Any:
            return ["read", text]

    pair = await connect(worker={"codec": Codec()}, client={"codec": Codec()})

    @pair.role().on_request("fail")
    async def fail(ctx: Context) -> None:
        raise HandlerError("no", data={1, 2})

    error = await rejected(await pair.destination(), "fail")
    assert error.data == ["read", b'{"made":"of set"}']


async def test_data_that_the_codec_cannot_read(connect: Connect) -> None:
    class Codec(roletalk.JsonCodec):
        def loads(self, text: bytes) -> Any:
            raise ValueError("no")

    pair = await connect(client={"codec": Codec()})

    @pair.role().on_request("fail")
    async def fail(ctx: Context) -> None:
        raise HandlerError("no", code="NO", data=[1])

    assert said(await rejected(await pair.destination(), "fail")) == ("no", "NO", None, None, False)


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        ({"code": "NO", "data": {1, 2}}, "NO", "The value cannot be sent"),
        ({"code": "NO", "data": "x" * 9000}, "NO", "The code and data of the error have 90"),
        ({"code": "x" * 9000}, None, "The code and data of the error have 90"),
    ],
)
async def test_what_cannot_be_sent_is_left_out(
    pair: Pair,
    failure: dict[str, Any],
    code: str | None,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @pair.role().on_request("fail")
    async def fail(ctx: Context) -> None:
        raise HandlerError("no", **failure)

    assert said(await rejected(await pair.destination(), "fail")) == ("no", code, None, None, False)
    errors = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert errors and all(text in error for error in errors)


async def test_other_errors_are_texts_only(chain: Chain) -> None:
    """What another peer has said is not passed on unasked."""

    class Own(Exception):
        code = "OWN"
        data = 1

    @chain.last.on_request("fail")
    async def last(ctx: Context) -> None:
        raise HandlerError("from the end", code="END", data=1, retry_after=2)

    @chain.first.on_request("fail")
    async def first(ctx: Context) -> None:
        if ctx.data == "own":
            raise Own("from the middle")
        if ctx.data == "plain":
            raise RejectedError("rejected")
        try:
            await chain.to_end.request("fail")
        except RejectedError as error:
            assert error.code == "END"
            if ctx.data == "as it is":
                raise
            raise HandlerError(str(error), code=f"MIDDLE_{error.code}") from error

    async def of(data: str) -> tuple[Any, ...]:
        return said(await rejected(chain.to_middle, "fail", data))

    assert await of("own") == ("from the middle", None, None, None, False)
    assert await of("plain") == ("rejected", None, None, None, False)
    assert await of("as it is") == ("from the end", None, None, None, False)
    assert await of("wrapped") == ("from the end", "MIDDLE_END", None, None, False)


async def test_middleware_makes_codes(pair: Pair) -> None:
    @pair.worker.middleware
    async def layer(ctx: Context, call_next: Next) -> Any:
        try:
            return await call_next(ctx)
        except LookupError as error:
            raise HandlerError("there is none", code="NOT_FOUND") from error

    pair.role().on_request("find", lambda ctx: {}[ctx.data])
    assert (await rejected(await pair.destination(), "find", "x")).code == "NOT_FOUND"


async def test_what_no_handler_has_begun(connect: Connect) -> None:
    class Codec(roletalk.JsonCodec):
        def loads(self, text: bytes) -> Any:
            raise ValueError("no")

    pair = await connect(worker={"codec": Codec()})

    async def fail(ctx: Context) -> None:
        raise ValueError("begun")

    pair.role().on_request("fail", fail)
    pair.worker.role("disabled", active=False)
    destination = await pair.destination()
    for role, event in [("role", "unknown"), ("disabled", "fail"), ("unknown", "fail")]:
        with pytest.raises(RejectedError) as raised:
            await pair.client.destination(role).request(event, to=pair.unit)
        assert raised.value.unhandled
        assert raised.value.code is None and raised.value.data is None
    for opening in (destination.readable("unknown"), destination.writable("unknown")):
        with pytest.raises(RejectedError) as raised:
            await opening
        assert raised.value.unhandled
    # What cannot be read is not begun either.
    assert (await rejected(destination, "fail", {"a": 1})).unhandled
    assert not (await rejected(destination, "fail", 1)).unhandled


async def test_what_is_given_up_for_want_of_handlers_was_not_begun(connect: Connect) -> None:
    pair = await connect(worker={"limits": roletalk.Limits(running_handlers=1)})
    begun = []

    @pair.role().on_request("wait")
    async def wait(ctx: Context) -> None:
        begun.append(ctx)
        await pair.worker._host.loop.create_future()

    destination = await pair.destination()
    first = destination.request("wait")
    await until(lambda: len(begun) == 1)
    error = await rejected(destination, "wait")
    assert error.unhandled and len(begun) == 1
    first.cancel()


async def test_a_peer_that_knows_only_texts(plain: str, connect: Connect) -> None:
    pair = await connect()

    @pair.role().on_request("fail")
    async def fail(ctx: Context) -> None:
        raise HandlerError("no", code="NO", data={"a": 1}, retry_after=1)

    destination = await pair.destination()
    assert said(await rejected(destination, "fail")) == ("no", None, None, None, False)
    assert said(await rejected(destination, "unknown"))[1:] == (None, None, None, False)


def test_errors_are_made_and_copied() -> None:
    error = HandlerError("no", code="NO", data={"a": 1}, retry_after=1)
    assert isinstance(error, RejectedError) and (str(error), error.unhandled) == ("no", False)
    assert (error.kind, error.number) == ("REJECTED", RejectedError.number)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is HandlerError
        assert (str(other), other.code, other.data) == ("no", "NO", {"a": 1})
        assert other.retry_after == 1
    assert str(HandlerError()) == ""
    with pytest.raises(TypeError, match="code must be a str"):
        HandlerError("no", code=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="retry_after must be a number of seconds"):
        HandlerError("no", retry_after="1")  # type: ignore[arg-type]
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="retry_after must not be negative"):
            HandlerError("no", retry_after=wrong)


def test_blocking_peers() -> None:
    from roletalk import sync

    with sync.Peer("worker") as worker, sync.Peer("client") as client:

        def fail(ctx: Context) -> None:
            raise HandlerError("no", code="NO", data=[1], retry_after=2)

        worker.role("role").on_request("fail", fail)
        client.connect(worker.listen("127.0.0.1").url)
        destination = client.destination("role")
        destination.wait_ready(LIMIT)
        with pytest.raises(RejectedError) as raised:
            destination.request("fail")
        assert said(raised.value) == ("no", "NO", [1], 2.0, False)
