from __future__ import annotations

import functools
from typing import Any

import pytest

import roletalk
from roletalk import Context, Next

from .conftest import LIMIT, Pair


async def test_middleware_runs_around_handlers(pair: Pair) -> None:
    calls: list[str] = []
    role = pair.role()

    async def task(ctx: Context) -> Any:
        return ctx.data

    role.on_request("task", task)
    role.on_request("inline", lambda ctx: ctx.data, inline=True)
    role.on_request("pool", lambda ctx: ctx.data)

    @role.middleware
    async def inner(ctx: Context, call_next: Next) -> Any:
        calls.append("inner")
        return await call_next(ctx.with_data(ctx.data + 1))

    @pair.worker.middleware
    async def outer(ctx: Context, call_next: Next) -> Any:
        calls.append("outer")
        return await call_next(ctx) * 10

    destination = await pair.destination()
    for event in ("task", "inline", "pool"):
        assert await destination.request(event, 1) == 20
    assert calls == ["outer", "inner"] * 3


async def test_middleware_can_refuse_and_see_failures(pair: Pair) -> None:
    seen: list[BaseException] = []
    role = pair.role()

    @pair.worker.middleware
    async def guard(ctx: Context, call_next: Next) -> Any:
        if ctx.data == "stranger":
            raise roletalk.RejectedError("go away")
        try:
            return await call_next(ctx)
        except Exception as error:
            seen.append(error)
            return "recovered"

    @role.on_request("fail")
    def fail(ctx: Context) -> None:
        raise ValueError("broken")

    destination = await pair.destination()
    with pytest.raises(roletalk.RejectedError, match="go away"):
        await destination.request("fail", "stranger")
    assert await destination.request("fail") == "recovered"
    assert [str(error) for error in seen] == ["broken"]


async def test_middleware_around_streams(pair: Pair) -> None:
    kinds: list[str] = []

    @pair.worker.middleware
    async def note(ctx: Context, call_next: Next) -> Any:
        kinds.append(ctx.kind)
        return await call_next(ctx)

    @pair.role().on_writable("x")
    async def write(ctx: Context) -> None:
        async with ctx.accept() as stream:
            await stream.write(b"data")

    destination = await pair.destination()
    assert await destination.readable("x").read() == b"data"
    assert kinds == ["writable"]


async def test_a_second_handler_is_refused_or_replaces(pair: Pair) -> None:
    role = pair.role()

    async def first(ctx: Context) -> int:
        return 1

    async def second(ctx: Context) -> int:
        return 2

    for register in (role.on_message, role.on_request, role.on_readable, role.on_writable):
        register("x", first)
        with pytest.raises(roletalk.InvalidArgumentError, match=r'"role".*"x".*replace=True'):
            register("x", second)
        with pytest.raises(ValueError, match="already"):
            # Also the same one, by a module that is imported twice.
            register("x")(first)
    destination = await pair.destination()
    assert await destination.request("x", timeout=LIMIT) == 1
    role.on_request("x", second, replace=True)
    assert await destination.request("x", timeout=LIMIT) == 2

    @role.on_request("x", inline=True, replace=True)
    def third(ctx: Context) -> int:
        return 3

    assert await destination.request("x", timeout=LIMIT) == 3
    # In place of none, too.
    role.on_request("y", third, replace=True)
    assert await destination.request("y", timeout=LIMIT) == 3


async def test_what_can_be_a_handler(pair: Pair) -> None:
    class Callable:
        async def __call__(self, ctx: Context) -> str:
            return "called"

        async def method(self, ctx: Context) -> str:
            return "method"

    async def more(name: str, ctx: Context) -> str:
        return name

    role = pair.role()
    role.on_request("object", Callable())
    role.on_request("method", Callable().method)
    role.on_request("partial", functools.partial(more, "partial"))
    destination = await pair.destination()
    assert await destination.request("object") == "called"
    assert await destination.request("method") == "method"
    assert await destination.request("partial") == "partial"
    with pytest.raises(TypeError):
        role.on_request("x", 5)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        role.middleware(lambda ctx, call_next: None)  # type: ignore[type-var]


async def test_roles_are_offered_when_they_are_active(pair: Pair) -> None:
    role = pair.worker.role("late", active=False)
    assert pair.worker.role("late") is role
    assert [role.name for role in pair.worker.roles] == ["late"]
    destination = pair.client.destination("late")
    assert pair.client.destination("late") is destination
    assert pair.client.destinations == [destination]
    with pytest.raises(roletalk.TimeoutError):
        await destination.wait_ready(0.01)
    role.on_request("x", lambda ctx: "here", inline=True)
    role.enable()
    await destination.wait_ready(LIMIT)
    assert await destination.request("x") == "here"
    assert repr(role) == "<Role 'late'>"
    assert repr(destination) == "<Destination 'late', 1 units>"
