"""Mistakes that callers make: each is told at once, in terms of what was written."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

import roletalk

from .conftest import Pair


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"limits": {"units": 1}}, TypeError, "roletalk.Limits"),
        ({"limits": roletalk.Limits(units=-1)}, ValueError, "Limits.units must"),
        ({"limits": roletalk.Limits(streams=1.5)}, TypeError, "Limits.streams must"),  # type: ignore[arg-type]
        ({"limits": roletalk.Limits(request_timeout=0)}, ValueError, "Limits.request_timeout must"),
        ({"reconnect_cap": 0}, ValueError, "reconnect_cap must"),
        ({"reconnect_jitter": 1.5}, ValueError, "reconnect_jitter must"),
        ({"reconnect_jitter": float("nan")}, ValueError, "reconnect_jitter must"),
        ({"threads": 0}, ValueError, "threads must"),
        ({"keys": {"": "key"}}, roletalk.InvalidArgumentError, "key"),
    ],
)
def test_settings(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        roletalk.Peer(**options)


async def test_decorators_without_a_call(pair: Pair) -> None:
    async def handler(ctx: roletalk.Context) -> None: ...

    role = pair.role()
    for register in (role.on_message, role.on_request, role.on_readable, role.on_writable):
        with pytest.raises(TypeError, match="the event must be a str"):
            register(handler)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="subclasses of Event"):
        pair.client.on(handler)  # type: ignore[arg-type]


async def test_listening(pair: Pair) -> None:
    with pytest.raises(TypeError, match="host must be"):
        await pair.worker.listen(9000)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await pair.worker.listen("127.0.0.1", "http")  # type: ignore[arg-type]
    with pytest.raises(roletalk.InvalidArgumentError, match="65535"):
        await pair.worker.listen("127.0.0.1", 70000)
    with pytest.raises(TypeError, match=r"ssl\.SSLContext"):
        await pair.worker.listen("127.0.0.1", ssl=True)  # type: ignore[arg-type]


async def test_dialing(pair: Pair) -> None:
    context = ssl.create_default_context()
    with pytest.raises(roletalk.InvalidArgumentError, match="wss://"):
        # It would be a connection that is not encrypted.
        await pair.client.connect(pair.listener.url, ssl=context)
    with pytest.raises(TypeError, match=r"ssl\.SSLContext"):
        await pair.client.connect("wss://127.0.0.1:1", ssl=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must"):
        await pair.client.connect("ws://127.0.0.1:1", timeout=0)
    for url in ("127.0.0.1:9000", "localhost:9000", "http://localhost:9000", ""):
        with pytest.raises(roletalk.InvalidArgumentError, match="must begin with ws://"):
            await pair.client.connect(url)


async def test_sending(pair: Pair) -> None:
    destination = await pair.destination_of("role")
    with pytest.raises(TypeError, match="must be a Unit"):
        await destination.send("echo", to="worker")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Unit"):
        await destination.request("echo", to="worker")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must"):
        await destination.request("echo", timeout=0)
    with pytest.raises(roletalk.DataError, match="cannot be sent"):
        await destination.request("echo", object())
