"""Services that this peer offers."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    TypeVar,
    overload,
)

from ._engine import Context
from .errors import ENDS_PROGRAM, HandlerFailedError, InvalidArgumentError, reason_of

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["Middleware", "Next", "Role"]

Next = Callable[[Context], Awaitable[Any]]
"""The rest of the chain: call it with the context, await the outcome."""

Middleware = Callable[[Context, Next], Awaitable[Any]]
"""``async def middleware(ctx, call_next)``; it returns the answer, or raises to reject."""

H = TypeVar("H", bound=Callable[[Context], Any])
A = TypeVar("A", bound=Callable[[Context], Awaitable[Any]])
M = TypeVar("M", bound=Middleware)


_KINDS = {
    "message": "messages",
    "request": "requests",
    "readable": "streams that it reads",
    "writable": "streams that it writes",
}


class Role:
    """A service that this peer offers, and the handlers of its events. From ``Peer.role()``.

    A handler is called with a ``Context``. What it returns answers a request; what it raises rejects
    it, with the text of the exception. ``async def`` handlers become tasks of the loop. Plain functions
    are called by threads of the peer's own, several at a time, or with ``inline=True`` right in the
    loop, for those that take microseconds.

    Each handler runs in a copy of the context (``contextvars``) in which the peer was bound to its loop, with
    what middleware has set for this request.

    One handler serves an event of each kind. A second one is refused with ``InvalidArgumentError``, unless
    it is registered with ``replace=True``: then it takes the place of the first. The methods that register
    are decorators, or take the handler as their last argument.
    """

    def __init__(self, host: Host, layers: list[Middleware], name: str) -> None:
        self._host = host
        self._name = name
        self._peer_layers = layers
        self._layers: list[Middleware] = []
        self._handlers: dict[tuple[str, str], tuple[Callable[[Context], Any], bool, bool]] = {}

    @property
    def name(self) -> str:
        """The role's name."""
        return self._name

    @property
    def is_active(self) -> bool:
        """Whether the role is offered."""
        return self._host.engine.is_role_active(self._name)

    def enable(self) -> None:
        """Offers the role again; units are told."""
        self._host.engine.set_role_active(self._name, True)

    def disable(self) -> None:
        """Offers the role no longer: requests are rejected, messages dropped, units are told. What is
        running goes on."""
        self._host.engine.set_role_active(self._name, False)

    @overload
    def on_message(
        self, event: str, handler: None = None, *, inline: bool = False, replace: bool = False
    ) -> Callable[[H], H]: ...

    @overload
    def on_message(
        self, event: str, handler: H, *, inline: bool = False, replace: bool = False
    ) -> H: ...

    def on_message(
        self,
        event: str,
        handler: Callable[[Context], Any] | None = None,
        *,
        inline: bool = False,
        replace: bool = False,
    ) -> Any:
        """Registers the handler of one-way messages. What it raises is logged, and emitted as
        ``HandlerFailed``. It is never cancelled for its sender's sake.

        Args:
            event: The name of the action.
            handler: A function that is called with a ``Context``; without, a decorator is returned.
            inline: Whether a plain function is called right in the loop.
            replace: Whether it takes the place of the handler that the event has.

        Returns:
            The handler, or a decorator.

        Raises:
            InvalidArgumentError: When the event has a handler already.
            TypeError: When the handler is none.
        """
        return self._register("message", event, handler, inline, replace)

    @overload
    def on_request(
        self,
        event: str,
        handler: None = None,
        *,
        inline: bool = False,
        detached: bool = False,
        replace: bool = False,
    ) -> Callable[[H], H]: ...

    @overload
    def on_request(
        self,
        event: str,
        handler: H,
        *,
        inline: bool = False,
        detached: bool = False,
        replace: bool = False,
    ) -> H: ...

    def on_request(
        self,
        event: str,
        handler: Callable[[Context], Any] | None = None,
        *,
        inline: bool = False,
        detached: bool = False,
        replace: bool = False,
    ) -> Any:
        """Registers the handler of requests: what it returns is the answer. What it raises rejects the
        request and is logged, unless it is a ``RejectedError``.

        The task of an ``async def`` handler is cancelled, as by ``task.cancel()``, when the requester gives
        up, when its time is up, and when its unit is lost. What it does then is its own matter: it may clean
        up, and nobody hears of what it raises. Plain functions run to their end; ``ctx.cancelled`` tells
        them.

        Args:
            event: The name of the action.
            handler: A function that is called with a ``Context``; without, a decorator is returned.
            inline: Whether a plain function is called right in the loop.
            detached: Whether the handler goes on whatever becomes of its requester. What it asks other peers
                for inherits neither time nor cancellation then.
            replace: Whether it takes the place of the handler that the event has.

        Returns:
            The handler, or a decorator.

        Raises:
            InvalidArgumentError: When the event has a handler already.
            TypeError: When the handler is none.
        """
        return self._register("request", event, handler, inline, replace, detached)

    @overload
    def on_readable(
        self,
        event: str,
        handler: None = None,
        *,
        detached: bool = False,
        replace: bool = False,
    ) -> Callable[[A], A]: ...

    @overload
    def on_readable(
        self, event: str, handler: A, *, detached: bool = False, replace: bool = False
    ) -> A: ...

    def on_readable(
        self,
        event: str,
        handler: Callable[[Context], Awaitable[Any]] | None = None,
        *,
        detached: bool = False,
        replace: bool = False,
    ) -> Any:
        """Registers the handler, an ``async def``, of units that want to write a stream, which this
        peer reads: ``stream = ctx.accept()`` is a ``Readable``. Raising refuses the stream, or breaks
        it off when it was accepted.

        Before it has accepted the stream, it is cancelled as the handler of a request is.

        Args:
            event: The name of the action.
            handler: A function that is called with a ``Context``; without, a decorator is returned.
            detached: Whether the handler goes on whatever becomes of its requester.
            replace: Whether it takes the place of the handler that the event has.

        Returns:
            The handler, or a decorator.

        Raises:
            InvalidArgumentError: When the event has a handler already.
            TypeError: When the handler is no ``async def`` function.
        """
        return self._register("readable", event, handler, False, replace, detached)

    @overload
    def on_writable(
        self,
        event: str,
        handler: None = None,
        *,
        detached: bool = False,
        replace: bool = False,
    ) -> Callable[[A], A]: ...

    @overload
    def on_writable(
        self, event: str, handler: A, *, detached: bool = False, replace: bool = False
    ) -> A: ...

    def on_writable(
        self,
        event: str,
        handler: Callable[[Context], Awaitable[Any]] | None = None,
        *,
        detached: bool = False,
        replace: bool = False,
    ) -> Any:
        """Registers the handler, an ``async def``, of units that want to read a stream, which this
        peer writes: ``stream = ctx.accept()`` is a ``Writable``.

        Args:
            event: As in ``on_readable``, as are the others.

        Returns:
            The handler, or a decorator.

        Raises:
            InvalidArgumentError: As ``on_readable``.
            TypeError: As ``on_readable``.
        """
        return self._register("writable", event, handler, False, replace, detached)

    def middleware(self, layer: M) -> M:
        """Adds middleware for everything that this role handles. It runs behind the peer's own
        (``Peer.middleware``) and those added before. A decorator.

        Args:
            layer: An ``async def`` function, as in ``Peer.middleware``.

        Returns:
            The same.

        Raises:
            TypeError: When it is none.
        """
        _check_layer(layer)
        self._layers.append(layer)
        self._install_all()
        return layer

    def _register(
        self,
        kind: str,
        event: str,
        handler: Callable[[Context], Any] | None,
        inline: bool,
        replace: bool,
        detached: bool = False,
    ) -> Any:
        if not isinstance(event, str):
            # Such as of `@role.on_request` without an event.
            raise TypeError("the name of the event must be a str")
        if handler is None:
            register = functools.partial(self._register, kind, event)
            return functools.partial(register, inline=inline, replace=replace, detached=detached)
        if not callable(handler):
            raise TypeError("a handler must be callable")
        stream = kind in ("readable", "writable")
        if stream and not _is_async(handler):
            raise TypeError("the handler of a stream must be an async def function")
        run = functools.partial(self._host.run_stream, handler) if stream else handler
        entry = (run, inline, detached)
        if replace:
            self._handlers[kind, event] = entry
        elif self._handlers.setdefault((kind, event), entry) is not entry:
            raise InvalidArgumentError(
                f'The role "{self._name}" has a handler for the event "{event}" of {_KINDS[kind]} already: '
                "register the new one with replace=True if it is to take its place"
            )
        self._install(kind, event)
        return handler

    def _install_all(self) -> None:
        for kind, event in self._handlers:
            self._install(kind, event)

    def _install(self, kind: str, event: str) -> None:
        handler, inline, detached = self._handlers[kind, event]
        layers = [*self._peer_layers, *self._layers]
        mode = "task" if _is_async(handler) else "inline" if inline else "pool"
        if layers:
            if mode == "inline":
                handler = _awaitable(handler)
            elif mode == "pool":
                handler = functools.partial(self._in_pool, handler)
            for layer in reversed(layers):
                handler = _layered(layer, handler)
            mode = "task"
        self._host.engine.set_handler(self._name, kind, event, handler, mode, detached)

    async def _in_pool(self, handler: Callable[[Context], Any], ctx: Context) -> Any:
        future = asyncio.get_running_loop().create_future()

        def done(_: Context, value: Any, error: BaseException | None) -> None:
            if future.done():
                return
            future.set_result((value, error))

        # With what middleware has set.
        self._host.pool.submit(contextvars.copy_context(), handler, ctx, done)
        value, error = await future
        if error is not None:
            raise _for_coroutines(error)
        return value

    def __repr__(self) -> str:
        return f"<Role {self._name!r}{'' if self.is_active else ', disabled'}>"


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def _check_layer(layer: Any) -> None:
    if not _is_async(layer):
        raise TypeError("middleware must be an async def function")


def _for_coroutines(error: BaseException) -> BaseException:
    """What a function has raised, as a coroutine may raise it. ``SystemExit`` in a thread ends no program:
    without middleware, too, it only rejects."""
    if isinstance(error, (StopIteration, *ENDS_PROGRAM)):
        failed = HandlerFailedError(reason_of(error))
        failed.__cause__ = error
        return failed
    return error


def _awaitable(handler: Callable[[Context], Any]) -> Next:
    async def call(ctx: Context) -> Any:
        try:
            return handler(ctx)
        except StopIteration as error:
            raise _for_coroutines(error) from error

    return call


def _layered(layer: Middleware, rest: Next) -> Next:
    async def call(ctx: Context) -> Any:
        return await layer(ctx, rest)

    return call
