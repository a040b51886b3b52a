"""A blocking facade, for scripts and notebooks. ::

    from roletalk.sync import Peer

    with Peer(name="script") as peer:
        peer.connect("ws://127.0.0.1:9000")
        math = peer.destination("math")
        math.wait_ready(timeout=5)
        print(math.request("add", {"a": 1, "b": 2}, timeout=2))

Each peer runs an event loop in a thread of its own. Everything here may be called from any thread, but
not from inside a running event loop: there, use the package itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import ssl as ssl_module
import threading
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Iterator, List, Mapping, Optional, TypeVar

from . import destination as _destination
from . import peer as _peer
from . import role as _role
from . import streams as _streams
from .errors import ClosedError
from .stats import PeerStats, UnitStats
from .unit import Unit

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Type, Union

    from .destination import UnitAnswer
    from .peer import Listener

__all__ = ["Destination", "Peer", "Readable", "Role", "Writable"]

T = TypeVar("T")


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a script that forgets to close its peer must be able to end.
        self._thread = threading.Thread(target=self._work, name="roletalk loop", daemon=True)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._ended = False
        self._thread.start()

    def _work(self) -> None:
        try:
            self._loop.run_forever()
            # What was asked for before the end: whoever waits for it has to hear of that.
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task]))
        finally:
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            work.close()
            raise RuntimeError("roletalk.sync blocks: use roletalk inside of an event loop")
        if self._process != os.getpid():
            work.close()
            text = "The peer belongs to the parent process: make a new one after a fork"
            raise ClosedError(text)
        with self._lock:
            if self._ended:
                work.close()
                raise ClosedError("The peer is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._ended:
                raise ClosedError("The peer is closed") from None
            raise
        except BaseException:
            # Such as KeyboardInterrupt while it waited.
            future.cancel()
            raise

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Calls a function in the loop."""

        async def call() -> T:
            return function(*arguments, **options)

        return self.run(call())

    def stop(self) -> None:
        with self._lock:
            if not self._ended:
                self._ended = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class Readable:
    """As ``roletalk.Readable``, with ``for`` and ``with``."""

    def __init__(self, loop: _Loop, stream: _streams.Readable) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def answer(self) -> Any:
        """The payload that the stream was accepted with."""
        return self._stream.answer

    def read(self, limit: int = -1) -> bytes:
        """The next bytes, at most ``limit``; without a limit, all to the end. Empty at the end."""
        return self._loop.run(self._stream.read(limit))

    def abort(self, reason: str = "") -> None:
        """Breaks off, with a reason for the other end."""
        self._loop.call(self._stream.abort, reason)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._loop.run(self._stream.__anext__())
            except StopAsyncIteration:
                return

    def __enter__(self) -> Readable:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._loop.run(self._stream.__aexit__(kind, error, traceback))


class Writable:
    """As ``roletalk.Writable``, with ``with``."""

    def __init__(self, loop: _Loop, stream: _streams.Writable) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def answer(self) -> Any:
        """The payload that the stream was accepted with."""
        return self._stream.answer

    def write(self, data: Union[bytes, bytearray, memoryview]) -> None:
        """Writes all of the data, waiting while the reader is not ready for more."""
        self._loop.run(self._stream.write(data))

    def finish(self) -> None:
        """Ends the stream; returns when the reader has read everything, as far as it can be known."""
        self._loop.run(self._stream.finish())

    def abort(self, reason: str = "") -> None:
        """Breaks off, with a reason for the other end."""
        self._loop.call(self._stream.abort, reason)

    def __enter__(self) -> Writable:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._loop.run(self._stream.__aexit__(kind, error, traceback))


class Destination:
    """As ``roletalk.Destination``; each method waits for its outcome."""

    def __init__(self, loop: _Loop, destination: _destination.Destination) -> None:
        self._loop = loop
        self._destination = destination

    @property
    def name(self) -> str:
        """The role's name."""
        return self._destination.name

    @property
    def units(self) -> List[Unit]:
        """The units that serve the role now."""
        return self._loop.call(lambda: self._destination.units)

    def wait_ready(self, timeout: Optional[float] = None) -> None:
        """Waits until a unit serves the role, at most ``timeout`` seconds."""
        self._loop.run(self._destination.wait_ready(timeout))

    def send(self, event: str, data: Any = None, *, to: Optional[Unit] = None) -> None:
        """Sends a one-way message to the next unit in turn, or to ``to``."""
        self._loop.run(self._destination.send(event, data, to=to))

    def broadcast(self, event: str, data: Any = None) -> int:
        """Sends a one-way message to every unit; returns how many took it."""
        return self._loop.run(self._destination.broadcast(event, data))

    def request(
        self,
        event: str,
        data: Any = None,
        *,
        to: Optional[Unit] = None,
        timeout: Optional[float] = None,
    ) -> Any:
        """Sends a request to the next unit in turn, or to ``to``, and returns its answer."""

        async def ask() -> Any:
            return await self._destination.request(event, data, to=to, timeout=timeout)

        return self._loop.run(ask())

    def survey(
        self, event: str, data: Any = None, *, timeout: Optional[float] = None
    ) -> List[UnitAnswer]:
        """Sends a request to every unit, and returns all answers."""

        async def ask() -> List[UnitAnswer]:
            return await self._destination.survey(event, data, timeout=timeout).all()

        return self._loop.run(ask())

    def readable(
        self,
        event: str,
        data: Any = None,
        *,
        to: Optional[Unit] = None,
        timeout: Optional[float] = None,
    ) -> Readable:
        """A stream to read from the next unit in turn, or from ``to``."""

        async def open_stream() -> _streams.Readable:
            return await self._destination.readable(event, data, to=to, timeout=timeout)

        return Readable(self._loop, self._loop.run(open_stream()))

    def writable(
        self,
        event: str,
        data: Any = None,
        *,
        to: Optional[Unit] = None,
        timeout: Optional[float] = None,
    ) -> Writable:
        """A stream to write to the next unit in turn, or to ``to``."""

        async def open_stream() -> _streams.Writable:
            return await self._destination.writable(event, data, to=to, timeout=timeout)

        return Writable(self._loop, self._loop.run(open_stream()))


class Role:
    """As ``roletalk.Role``. Plain functions are called by threads of the peer's; ``async def`` handlers
    and those of streams run in the peer's event loop."""

    def __init__(self, loop: _Loop, role: _role.Role) -> None:
        self._loop = loop
        self._role = role

    @property
    def name(self) -> str:
        """The role's name."""
        return self._role.name

    def on_message(self, event: str, handler: Any = None, *, inline: bool = False) -> Any:
        """Registers the handler of one-way messages."""
        return self._register(self._role.on_message, event, handler, inline=inline)

    def on_request(self, event: str, handler: Any = None, *, inline: bool = False) -> Any:
        """Registers the handler of requests: what it returns is the answer."""
        return self._register(self._role.on_request, event, handler, inline=inline)

    def on_readable(self, event: str, handler: Any = None) -> Any:
        """Registers the handler, an ``async def``, of units that want to write a stream."""
        return self._register(self._role.on_readable, event, handler)

    def on_writable(self, event: str, handler: Any = None) -> Any:
        """Registers the handler, an ``async def``, of units that want to read a stream."""
        return self._register(self._role.on_writable, event, handler)

    def _register(self, register: Any, event: str, handler: Any, **options: Any) -> Any:
        if handler is None:
            return lambda handler: self._register(register, event, handler, **options)
        return self._loop.call(register, event, handler, **options)

    def enable(self) -> None:
        """Offers the role again; units are told."""
        self._loop.call(self._role.enable)

    def disable(self) -> None:
        """Offers the role no longer; units are told."""
        self._loop.call(self._role.disable)


class Peer:
    """As ``roletalk.Peer``, with the same arguments. Use it in ``with``, or close it in the end."""

    def __init__(self, name: str = "", **options: Any) -> None:
        self._loop = _Loop()
        try:
            self._peer: _peer.Peer = self._loop.call(_peer.Peer, name, **options)
        except BaseException:
            self._loop.stop()
            raise

    @property
    def id(self) -> str:
        """This peer's id."""
        return self._peer.id

    @property
    def units(self) -> List[Unit]:
        """All connected units. Of their methods, use the properties only; see ``unit_stats``."""
        return self._loop.call(lambda: self._peer.units)

    def listen(
        self,
        host: Optional[str] = None,
        port: int = 0,
        *,
        ssl: Optional[ssl_module.SSLContext] = None,
        path: Optional[str] = None,
    ) -> Listener:
        """Listens on a host's addresses and a port, 0 for a free one."""
        return self._loop.run(self._peer.listen(host, port, ssl=ssl, path=path))

    def connect(
        self,
        url: str,
        *,
        ssl: Optional[ssl_module.SSLContext] = None,
        server_hostname: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
        permanent: bool = True,
        timeout: float = 10.0,
    ) -> Unit:
        """Connects to a ``ws://`` or ``wss://`` address, and returns the unit that answered."""
        connecting = self._peer.connect(
            url,
            ssl=ssl,
            server_hostname=server_hostname,
            headers=headers,
            permanent=permanent,
            timeout=timeout,
        )
        return self._loop.run(connecting)

    def disconnect(self, url: str) -> bool:
        """Stops dialing an address."""
        return self._loop.call(self._peer.disconnect, url)

    def role(self, name: str, *, active: bool = True) -> Role:
        """The role of this name, added if it is new."""
        return Role(self._loop, self._loop.call(self._peer.role, name, active=active))

    def destination(self, role: str) -> Destination:
        """The destination of this name, added if it is new."""
        return Destination(self._loop, self._loop.call(self._peer.destination, role))

    def stats(self) -> PeerStats:
        """Counters."""
        return self._loop.call(self._peer.stats)

    def unit_stats(self, unit: Unit) -> UnitStats:
        """Counters of a unit."""
        return self._loop.call(unit.stats)

    def drain(self, timeout: float) -> bool:
        """Stops offering roles, lets running requests and streams finish, then closes."""
        finished = self._loop.run(self._peer.drain(timeout))
        self._loop.stop()
        return finished

    def close(self) -> None:
        """Closes the peer and ends its thread. May be called several times."""
        try:
            self._loop.run(self._peer.close())
        except ClosedError:
            # It was closed before, or belongs to another process.
            return
        self._loop.stop()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()
