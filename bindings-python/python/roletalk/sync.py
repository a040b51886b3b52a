"""A blocking facade, for scripts and notebooks. ::

    from roletalk.sync import Peer

    with Peer(name="script") as peer:
        peer.connect("ws://127.0.0.1:9000")
        math = peer.destination("math")
        math.wait_ready(timeout=5)
        print(math.request("add", {"a": 1, "b": 2}, timeout=2))

The classes here have the methods of those of the same name in ``roletalk``, with the same arguments; what
is awaited there is waited for here, ``async with`` is ``with``, and ``async for`` is ``for``. Units, events,
limits, counters and exceptions are those of ``roletalk``.

Each peer runs an event loop in a thread of its own. Everything here may be called from any thread but that
one: a handler that is an ``async def`` function runs in it, and what it calls here raises ``RuntimeError``.
Calls from within another event loop, such as a notebook's, block that loop. ``KeyboardInterrupt`` while
something is waited for gives that up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import Awaitable, Coroutine, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Generic,
    NoReturn,
    TypeVar,
    overload,
)

from . import _engine
from . import destination as _destination
from . import events as _events
from . import peer as _peer
from . import role as _role
from . import streams as _streams
from ._signals import Bell, caught
from .errors import CancelledError, ClosedError
from .unit import Unit

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Concatenate, ParamSpec

    _P = ParamSpec("_P")

__all__ = ["Destination", "Events", "Listener", "Peer", "Readable", "Role", "Survey", "Writable"]

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")
F = TypeVar("F", bound="_Facade")


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._ended = False
        # A daemon: a script that forgets to close its peer must be able to end.
        self._thread = threading.Thread(target=self._work, name="roletalk loop", daemon=True)
        self._process = os.getpid()
        self._thread.start()

    def _work(self) -> None:
        self._loop.run_forever()
        with self._lock:
            self._ended = True
        self._loop.run_until_complete(_cancel_all())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], bell: Bell | None = None) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a handler in the peer's own event loop cannot wait for it: make it a plain function"
            )
        if self._process != os.getpid():
            work.close()
            text = "The peer belongs to the parent process: make a new one after a fork"
            raise ClosedError(text)
        with self._lock:
            if self._ended:
                work.close()
                raise _engine.peer_closed()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            if bell is not None:
                future.add_done_callback(bell.ring)
                while not future.done():
                    bell.wait()
            return future.result()
        except _GivenUp as given_up:
            raise given_up.args[0] from None
        except concurrent.futures.CancelledError:
            raise _engine.peer_closed() from None
        except BaseException:
            # Such as KeyboardInterrupt while it waited.
            future.cancel()
            raise

    def stop(self) -> None:
        with self._lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class _GivenUp(Exception):
    """Has a ``CancelledError``: a task that ended with that itself would count as cancelled."""


async def _cancel_all() -> None:
    """Cancels whatever runs in a loop that ends."""
    me = asyncio.current_task()
    rest = [task for task in asyncio.all_tasks() if task is not me]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


# What follows makes the methods and properties of the facades from those of the originals. The types tell
# checkers and editors what the originals take and give; `help()` finds their signatures and texts.


def _signed_as(
    original: Callable[Concatenate[Any, _P], Any],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, _P], T]]:
    def sign(call: Callable[..., T]) -> Callable[Concatenate[Any, _P], T]:
        functools.update_wrapper(call, original)
        call.__module__ = __name__
        return call

    return sign


def _awaited(
    method: Callable[Concatenate[Any, _P], Awaitable[T]],
) -> Callable[Concatenate[Any, _P], T]:
    """The method, waiting for what it gives."""

    @_signed_as(method)
    def call(self: _Facade, *arguments: Any, **options: Any) -> T:
        async def work() -> T:
            try:
                return await method(self._inner, *arguments, **options)
            except CancelledError as error:
                raise _GivenUp(error) from error

        return self._loop.run(work())

    return call


def _called(method: Callable[Concatenate[Any, _P], T]) -> Callable[Concatenate[Any, _P], T]:
    """The method, called in the loop."""

    @_signed_as(method)
    def call(self: _Facade, *arguments: Any, **options: Any) -> T:
        async def work() -> T:
            return method(self._inner, *arguments, **options)

        return self._loop.run(work())

    return call


def _giving(
    facade: type[F], method: Callable[Concatenate[Any, _P], Any]
) -> Callable[Concatenate[Any, _P], F]:
    """The method, with what it gives behind a facade."""

    @_signed_as(method)
    def call(self: _Facade, *arguments: Any, **options: Any) -> F:
        return facade(self._loop, method(self, *arguments, **options))

    return call


class _Value(Generic[I, T]):
    """A property of the original, which may be read in any thread."""

    def __init__(self, of: type[I], get: Callable[[I], T]) -> None:
        self._of = of
        self._get = get

    def __set_name__(self, owner: type, name: str) -> None:
        self.__doc__ = getattr(self._of, name).__doc__

    @overload
    def __get__(self, facade: None, owner: type) -> _Value[I, T]: ...

    @overload
    def __get__(self, facade: _Facade, owner: type) -> T: ...

    def __get__(self, facade: _Facade | None, owner: type) -> _Value[I, T] | T:
        return self if facade is None else self._get(facade._inner)

    def __set__(self, facade: _Facade, value: NoReturn) -> NoReturn:
        raise AttributeError("it can only be read")


class _Facade:
    """Something that lives in a loop."""

    def __init__(self, loop: _Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other._inner is self._inner

    def __hash__(self) -> int:
        return hash((type(self), id(self._inner)))

    def __repr__(self) -> str:
        return repr(self._inner)


class _Context(_Facade):
    """What is left with ``with``."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.run(self._inner.__aexit__(kind, error, traceback))


class _Iterable(_Facade, Generic[T]):
    """What is iterated over with ``for``."""

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            item: T = self._loop.run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None
        return item

    async def _next(self) -> T:
        item: T = await self._inner.__anext__()
        return item


class Readable(_Context, _Iterable[bytes]):
    """As ``roletalk.Readable``, with ``for`` and ``with``."""

    headers = _Value(_streams.Readable, lambda stream: stream.headers)
    unit = _Value(_streams.Readable, lambda stream: stream.unit)
    answer = _Value(_streams.Readable, lambda stream: stream.answer)
    read = _awaited(_streams.Readable.read)
    readexactly = _awaited(_streams.Readable.readexactly)
    abort = _called(_streams.Readable.abort)

    def __enter__(self) -> Readable:
        return self


class Writable(_Context):
    """As ``roletalk.Writable``, with ``with``."""

    headers = _Value(_streams.Writable, lambda stream: stream.headers)
    unit = _Value(_streams.Writable, lambda stream: stream.unit)
    answer = _Value(_streams.Writable, lambda stream: stream.answer)
    write = _awaited(_streams.Writable.write)
    finish = _awaited(_streams.Writable.finish)
    abort = _called(_streams.Writable.abort)

    def __enter__(self) -> Writable:
        return self


class Survey(_Context, _Iterable[_destination.UnitAnswer]):
    """As ``roletalk.Survey``, with ``for`` and ``with``."""

    asked = _Value(_destination.Survey, lambda survey: survey.asked)
    all = _awaited(_destination.Survey.all)
    cancel = _called(_destination.Survey.cancel)

    def __enter__(self) -> Survey:
        return self


class Events(_Iterable[_events.Event]):
    """As ``roletalk.Events``, with ``for``."""

    close = _called(_events.Events.close)

    def __next__(self) -> _events.Event:
        try:
            return super().__next__()
        except ClosedError:
            # Its peer was closed before this was asked for: the end, as when it is closed later.
            raise StopIteration from None


class Destination(_Facade):
    """As ``roletalk.Destination``. ``request`` returns the answer, ``readable`` and ``writable`` return
    streams that are open."""

    name = _Value(_destination.Destination, lambda destination: destination.name)
    units = _Value(_destination.Destination, lambda destination: destination.units)
    is_ready = _Value(_destination.Destination, lambda destination: destination.is_ready)
    standings = _called(_destination.Destination.standings)
    wait_ready = _awaited(_destination.Destination.wait_ready)
    send = _awaited(_destination.Destination.send)
    broadcast = _awaited(_destination.Destination.broadcast)
    request = _awaited(_destination.Destination.request)
    call = _awaited(_destination.Destination.call)
    survey = _giving(Survey, _called(_destination.Destination.survey))
    readable = _giving(Readable, _awaited(_destination.Destination.readable))
    writable = _giving(Writable, _awaited(_destination.Destination.writable))


class Role(_Facade, _role.Role):
    """As ``roletalk.Role``. Handlers that are plain functions are called by threads of the peer's, and may
    use everything here; ``async def`` handlers and those of streams run in the peer's event loop, with what
    ``roletalk`` has for that."""

    # What is inherited has the types already. The methods that register end in `_register`.
    if not TYPE_CHECKING:
        name = _Value(_role.Role, lambda role: role.name)
        is_active = _Value(_role.Role, lambda role: role.is_active)
        enable = _called(_role.Role.enable)
        disable = _called(_role.Role.disable)
        middleware = _called(_role.Role.middleware)
        _register = _called(_role.Role._register)


class Listener(_Facade):
    """As ``roletalk.Listener``."""

    address = _Value(_peer.Listener, lambda listener: listener.address)
    port = _Value(_peer.Listener, lambda listener: listener.port)
    url = _Value(_peer.Listener, lambda listener: listener.url)
    close = _called(_peer.Listener.close)


class Peer(_Facade):
    """As ``roletalk.Peer``, with the same arguments. Use it in ``with``, or close it in the end."""

    @_signed_as(_peer.Peer.__init__)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        async def make() -> _peer.Peer:
            return _peer.Peer(*arguments, **options)

        loop = _Loop()
        try:
            super().__init__(loop, loop.run(make()))
        except BaseException:
            loop.stop()
            raise

    id = _Value(_peer.Peer, lambda peer: peer.id)
    name = _Value(_peer.Peer, lambda peer: peer.name)
    tags = _Value(_peer.Peer, lambda peer: peer.tags)
    units = _Value(_peer.Peer, lambda peer: peer.units)
    is_closed = _Value(_peer.Peer, lambda peer: peer.is_closed)
    tls_expires = _Value(_peer.Peer, lambda peer: peer.tls_expires)
    set_tag = _called(_peer.Peer.set_tag)
    add_preshared_key = _called(_peer.Peer.add_preshared_key)
    remove_preshared_key = _called(_peer.Peer.remove_preshared_key)
    set_policy = _called(_peer.Peer.set_policy)
    watch_policy = _awaited(_peer.Peer.watch_policy)
    role = _giving(Role, _called(_peer.Peer.role))
    destination = _giving(Destination, _called(_peer.Peer.destination))
    middleware = _called(_peer.Peer.middleware)
    listen = _giving(Listener, _awaited(_peer.Peer.listen))
    connect = _awaited(_peer.Peer.connect)
    dial = _called(_peer.Peer.dial)
    disconnect = _called(_peer.Peer.disconnect)
    reload_tls = _called(_peer.Peer.reload_tls)
    events = _giving(Events, _called(_peer.Peer.events))
    on = _called(_peer.Peer.on)
    stats = _called(_peer.Peer.stats)

    @property
    def roles(self) -> list[Role]:
        """All roles, in the order in which they were added."""
        return [Role(self._loop, role) for role in self._inner.roles]

    @property
    def destinations(self) -> list[Destination]:
        """All destinations, in the order in which they were added."""
        return [Destination(self._loop, each) for each in self._inner.destinations]

    def close_unit(self, unit: Unit) -> None:
        """Closes all connections to a unit, and waits until they are closed, as ``roletalk.Unit.close``,
        which is for event loops."""
        self._loop.run(unit.close())

    def serve(self, *, drain: float = 10.0) -> bool:
        """As ``roletalk.Peer.serve``, for the main thread; ends the peer's thread, too."""
        with caught(self._inner._host.request_stop) as bell:
            finished: bool = self._loop.run(self._inner._serve(drain), bell)
        self._loop.stop()
        return finished

    def drain(self, timeout: float = 10.0) -> bool:
        """As ``roletalk.Peer.drain``; ends the peer's thread, too."""
        finished: bool = self._loop.run(self._inner.drain(timeout))
        self._loop.stop()
        return finished

    def close(self) -> None:
        """As ``roletalk.Peer.close``; ends the peer's thread, too. May be called several times, from any
        thread but the peer's."""
        try:
            self._loop.run(self._inner.close())
        except ClosedError:
            pass
        self._loop.stop()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
