"""The engine of one peer on one asyncio event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import errno
import functools
import inspect
import logging
import os
import socket
import ssl as ssl_module
import sys
import threading
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    TypeVar,
    Union,
    cast,
)
from urllib.parse import urlsplit

from . import _engine, events
from ._links import SocketLink, TransportLink
from ._policy import PolicySource
from ._pool import Pool
from .access import Authenticate, Certificate, UpgradeRequest, claims_text
from .errors import (
    ENDS_PROGRAM,
    AuthRefusedError,
    ClosedError,
    ConnectFailedError,
    ConnectionLostError,
    DeniedError,
    Error,
    HandlerError,
    OverloadedError,
    ProtocolError,
    RejectedError,
    TlsError,
    reason_of,
)
from .streams import Readable, Writable
from .tls import TlsFiles
from .unit import Unit

logger = logging.getLogger("roletalk")

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_engine.forked)
atexit.register(_engine.exiting)

Stream = Union[Readable, Writable]
Tls = Union[ssl_module.SSLContext, TlsFiles]
Callback = Callable[[Any], Any]
Accepted = Callable[[socket.socket, Any], None]
T = TypeVar("T")

set_current_call = _engine.CURRENT_CALL.set

ACCEPTED_AT_ONCE = 8
"""Connections that are accepted before the loop has its turn."""

LEAST_PAUSE = 0.001
"""Seconds before accepting is tried again after another failure. Shorter pauses between connections are not
worth a timer: they accumulate until one is."""

UNIX_SOCKET = "a Unix socket"
"""Stands for the address of a connection on one."""

LACKING = {
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "WSAEMFILE", "WSAENOBUFS")
    if hasattr(errno, name)
}
"""Errors by which a process or the system says that it is short of something. EAGAIN is for threads."""

ACCEPT_AGAIN = 0.01
"""Seconds before accepting is tried again after a failure for want of file descriptors or memory. Evicted
connections have closed theirs by then."""


@dataclass(frozen=True)
class ConnectOptions:
    """How to dial an address."""

    ssl: Tls | None = None
    server_hostname: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    timeout: float = 10.0


def context_of(ssl: Tls | None, *, server: bool = False) -> ssl_module.SSLContext | None:
    """What a handshake that begins now uses."""
    return ssl._context(server=server) if isinstance(ssl, TlsFiles) else ssl


def _emits(kind: Callable[..., events.Event]) -> Callable[..., None]:
    """A method that the engine calls when something of a kind has happened, with what the event has."""

    def told(self: Host, *what: Any) -> None:
        # None stands for a unit that is gone already.
        if None not in what:
            self.emit(kind(*what))

    return told


class Host:
    """What the engine needs of the loop: sockets, timers, tasks. It also hears from the engine of
    everything that is rare; the engine calls these methods by name."""

    def __init__(
        self,
        engine: _engine.Engine,
        acquaintance: ConnectOptions,
        threads: int,
        authenticate: Authenticate | None = None,
    ) -> None:
        self.engine = engine
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self.thread: int | None = None
        # The one in which the peer was bound; nothing runs in it, but in copies.
        self.context = contextvars.Context()
        # A copy for what the loop calls on behalf of the engine.
        self.turns = contextvars.Context()
        self.closed = False
        self.reconnects = 0
        self.waiters: dict[int, asyncio.Future[Unit]] = {}
        self.options: dict[int, ConnectOptions] = {}
        self.causes: dict[int, BaseException] = {}
        self.ready: dict[str, list[asyncio.Future[None]]] = {}
        self.subscribers: weakref.WeakSet[events.Events] = weakref.WeakSet()
        self.callbacks: list[tuple[Callback, tuple[type, ...]]] = []
        self._acquaintance = acquaintance
        self._authenticate = authenticate
        # By connection, the tasks in which the application judges upgrades.
        self._judging: dict[int, asyncio.Task[None]] = {}
        self.tls_used: weakref.WeakSet[TlsFiles] = weakref.WeakSet()
        self._threads = threads
        # Connections whose transport is not ready (TLS), by place, and those of them that have timed out.
        self._strangers: dict[int, asyncio.Task[None]] = {}
        self._late: set[int] = set()
        self._pool: Pool | None = None
        self.policy = PolicySource(self)
        # Who is at the other end, for those who read logs.
        self._remotes: dict[int, str] = {}
        self._links: dict[int, SocketLink | TransportLink] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: dict[_engine.Context, weakref.ref[Stream]] = {}
        # Who waits until nothing is under way, and who waits for a reason to stop serving.
        self._idle: list[asyncio.Future[bool]] = []
        self._serving: list[asyncio.Future[None]] = []
        self._must_stop = False
        self._is_over = False
        self._links_gone: asyncio.Future[None] | None = None
        self._guard: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # Each with the task that accepts, on loops that watch no sockets.
        self._listening: dict[socket.socket, asyncio.Task[None] | None] = {}

    def bind(self) -> None:
        """Binds the peer to the running loop, once."""
        loop = asyncio.get_running_loop()
        if self.loop is loop:
            return
        if self.loop is not None:
            raise RuntimeError("the peer belongs to another event loop")
        # Cheaper than `create_task`, which matters only when nobody has changed that.
        spawn: Callable[..., Any] = loop.create_task
        if loop.get_task_factory() is None:
            spawn = functools.partial(asyncio.Task, loop=loop, name="roletalk handler")
            if sys.version_info >= (3, 12):
                # It ends right where it begins if it has nothing to wait for.
                spawn = functools.partial(spawn, eager_start=True)
        create_future: Callable[[], asyncio.Future[Any]] = loop.create_future
        if type(loop).create_future is asyncio.BaseEventLoop.create_future:
            # What that does, without a frame for it.
            create_future = functools.partial(asyncio.Future, loop=loop)
        self.context = contextvars.copy_context()
        # A handler of another peer may be who binds it.
        self.context.run(set_current_call, None)
        self.turns = turns = self.context.copy()
        self.engine.bind(
            call_soon=functools.partial(loop.call_soon, context=turns),
            call_later=functools.partial(loop.call_later, context=turns),
            create_future=create_future,
            time=loop.time,
            copy_context=self.context.copy,
            listener=self,
            spawn=spawn,
            run=self._run,
            call_inheriting=_call_inheriting,
        )
        self.loop = loop
        self.thread = threading.get_ident()
        self.use_tls(self._acquaintance.ssl)

    def check_thread(self) -> None:
        """Raises when this is not the thread of the loop that the peer is bound to."""
        if self.thread is not None and self.thread != threading.get_ident():
            raise RuntimeError(_engine.OTHER_THREAD)

    def hand_over(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function in the loop's thread: now, when this is it, else soon, unless the loop is
        closed or the parent process's. For what the garbage collector does, in whichever thread."""
        with contextlib.suppress(RuntimeError, ClosedError):
            if self.thread == threading.get_ident():
                function(*arguments)
            else:
                self.loop.call_soon_threadsafe(function, *arguments)

    def check_open(self) -> None:
        self.check_thread()
        if self.closed:
            raise _engine.peer_closed()

    def check_loop(self) -> None:
        """Raises when the running loop is not the peer's: what waits there would never be woken."""
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("the peer belongs to another event loop")

    def apart(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function in the context in which the peer was bound, or rather in a copy of it. Whoever
        registers something with the loop leaves it the context that it was registered in, and user code
        may be what is running then: the next request must not see what this one has set."""
        return self.context.copy().run(function, *arguments)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.apart(self.loop.create_task, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # It may be left when a loop is closed without having cancelled its tasks.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    # Handlers.

    async def _run(
        self,
        handler: Callable[[_engine.Context], Any],
        ctx: _engine.Context,
        call: _engine.Call | None,
    ) -> None:
        if call is not None:
            set_current_call(call)
        try:
            value = await handler(ctx)
        except GeneratorExit as error:
            # The handler's own, or the task was dropped: in whichever thread.
            self.hand_over(self.handler_failed, ctx, error)
        except BaseException as error:
            self.handler_failed(ctx, error)
            # Of everything else all is said: asyncio need not tell of it once more.
            if isinstance(error, (asyncio.CancelledError, *ENDS_PROGRAM)):
                raise
        else:
            self.engine.answer(ctx, value)

    async def run_stream(
        self, handler: Callable[[_engine.Context], Any], ctx: _engine.Context
    ) -> None:
        """Calls the handler of a stream; when it fails, the stream is broken off."""
        try:
            await handler(ctx)
        except BaseException as error:
            opened = self._streams.get(ctx)
            stream = opened() if opened is not None else None
            if stream is not None:
                stream.abort(reason_of(error))
            raise
        self._streams.pop(ctx, None)

    def accepted(self, ctx: _engine.Context, number: int) -> Stream:
        made: Stream
        if ctx.kind == "readable":
            made = Readable._accepted(self, ctx.unit, number)
        else:
            made = Writable._accepted(self, ctx.unit, number)
        self._streams[ctx] = weakref.ref(made)
        return made

    @property
    def pool(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(self.loop, self._threads, self.context.copy())
        return self._pool

    def submit(
        self,
        handler: Callable[[_engine.Context], Any],
        ctx: _engine.Context,
        call: _engine.Call | None,
    ) -> None:
        variables = self.context.copy()
        if call is not None:
            variables.run(set_current_call, call)
        try:
            self.pool.submit(variables, handler, ctx, self._returned)
        except RuntimeError as error:
            self.handler_failed(ctx, error)

    def _returned(self, ctx: _engine.Context, value: Any, error: BaseException | None) -> None:
        if error is None:
            self.engine.answer(ctx, value)
        else:
            self.handler_failed(ctx, error)

    def handler_failed(self, ctx: _engine.Context, error: BaseException) -> None:
        accepted = self._streams.pop(ctx, None) is not None
        reason = type(error).__name__
        try:
            reason = reason_of(error)
        finally:
            self._fail(ctx, reason, error)
        if ctx.cancelled or isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            logger.debug("the handler of %s was cancelled", place_of(ctx))
            return
        if not isinstance(error, RejectedError):
            logger.error("the handler of %s failed", place_of(ctx), exc_info=error)
        if accepted or ctx.kind == "message":
            self.emit(events.HandlerFailed(ctx.unit, ctx.role, ctx.event, error))

    def _fail(self, ctx: _engine.Context, reason: str, error: BaseException) -> None:
        if not isinstance(error, HandlerError):
            self.engine.fail(ctx, reason)
            return
        for data in (error.data, None):
            try:
                self.engine.fail(ctx, reason, (error.code, data, error.retry_after))
                return
            except Error as cannot:
                text = "what the error of %s says besides its text cannot be sent: %s"
                logger.error(text, place_of(ctx), cannot)
        self.engine.fail(ctx, reason)

    def watch(self, future: asyncio.Future[Any], done: Callable[[Any], None]) -> None:
        """Has the engine told when a future is done."""
        future.add_done_callback(done, context=self.turns)

    def not_handled(self, reason: str) -> None:
        logger.debug("not handled: %s", _engine.printable(reason))

    def bad_data(self, unit: Unit, reason: str) -> None:
        logger.warning("%r sent something that cannot be read: %s", unit, _engine.printable(reason))

    # Links.

    def write(self, conn: int, data: bytes) -> None:
        self._links[conn].write(data)

    def await_writable(self, conn: int) -> None:
        self._links[conn].await_writable()

    def stop_writing(self, conn: int) -> None:
        self._links[conn].stop_writing()

    def pause(self, conn: int) -> None:
        link = self._links[conn]
        link.pause()
        if conn in self._judging:
            link.watch_end()

    def resume(self, conn: int) -> None:
        self._links[conn].resume()

    def part(self, conn: int, limit: float) -> None:
        self._links[conn].part(limit)

    def leave(self, conn: int) -> None:
        self._links[conn].leave()

    def gone(self, conn: int) -> None:
        link = self._links.get(conn)
        if link is not None:
            link.gone()

    def release(self, conn: int) -> None:
        if self._links.pop(conn, None) is not None:
            self.engine.release(conn)
        if not self._links and self._links_gone is not None:
            _settle([self._links_gone], None)

    def _owned(
        self,
        sock: socket.socket,
        begin: Callable[[socket.socket | None], int],
        remote: str,
    ) -> None:
        """Gives the engine a plain socket."""
        if self._guard is None:
            self._guard = self.engine.guard(weakref.WeakMethod(self.check_end))
            self.apart(self.loop.add_reader, self._guard, self.engine.awake)
        fd = sock.fileno()
        conn = begin(sock)
        self._remotes[conn] = remote
        try:
            self._links[conn] = SocketLink(self, conn, fd)
        except BaseException:
            self.engine.release(conn)
            raise

    def _transported(
        self,
        link: TransportLink,
        begin: Callable[[socket.socket | None], int],
        remote: str,
    ) -> None:
        conn = begin(None)
        self._remotes[conn] = remote
        self._links[conn] = link
        link.begin(conn)

    # Certificates.

    def use_tls(self, ssl: Tls | None) -> None:
        """Has the files of certificates watched, and told of."""
        if not isinstance(ssl, TlsFiles) or ssl in self.tls_used:
            return
        self.tls_used.add(ssl)
        ssl._hosts.add(self)
        if ssl._watch is not None:
            self.start(self._watch_tls(weakref.ref(ssl)))

    async def _watch_tls(self, ref: weakref.ref[TlsFiles]) -> None:
        while True:
            files = ref()
            wait = None if files is None else files._next_look()
            # It is not to be kept while nobody else uses it.
            del files
            if wait is None:
                return
            await asyncio.sleep(wait)
            files = ref()
            if files is not None:
                # Files may be on a disk that is slow, or far away.
                await self.loop.run_in_executor(None, files._look)

    # Accepting.

    def listen(self, listening: socket.socket, ssl: Tls | None, path: str | None) -> None:
        """Accepts connections until `stop_listening`."""
        accepted = functools.partial(self._accepted, ssl, path)
        if not _can_watch(self.loop):
            self._listening[listening] = self.start(self._keep_accepting(listening, accepted))
            return
        self._listening[listening] = None
        self._await_connections(listening, accepted)

    def stop_listening(self, listening: socket.socket) -> None:
        """Closes a listening socket. Does nothing when that was done."""
        if listening not in self._listening:
            return
        task = self._listening.pop(listening)
        logger.info("no longer listening on %s", address_text(listening.getsockname()))
        if task is not None:
            task.cancel()
            task.add_done_callback(lambda _: listening.close())
            return
        if not self.loop.is_closed():
            self.loop.remove_reader(listening.fileno())
        listening.close()

    def _await_connections(self, listening: socket.socket, accepted: Accepted) -> None:
        # Not `sock_accept`: cancelled while a connection comes, asyncio's tells of an exception in a callback
        # and loses the connection.
        if listening in self._listening:
            self.apart(self.loop.add_reader, listening.fileno(), self._accept, listening, accepted)

    def _accept(self, listening: socket.socket, accepted: Accepted) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if listening not in self._listening:
                return
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                pause = self._accept_failed(error)
            else:
                accepted(sock, address)
                pause = self.engine.accept_pause()
            if pause >= LEAST_PAUSE:
                # The listening socket stays readable.
                self.loop.remove_reader(listening.fileno())
                waiting = (self._await_connections, listening, accepted)
                self.apart(self.loop.call_later, pause, *waiting)
                return

    def _accept_failed(self, error: OSError) -> float:
        """Returns after how many seconds to try again."""
        logger.debug("accept failed: %s", described(error))
        if error.errno not in LACKING:
            # The connection is gone; others may be there.
            return LEAST_PAUSE
        self.apart(self.engine.accept_failed, described(error))
        return ACCEPT_AGAIN

    async def _keep_accepting(self, listening: socket.socket, accepted: Accepted) -> None:
        while True:
            try:
                sock, address = await self.loop.sock_accept(listening)
            except OSError as error:
                await asyncio.sleep(self._accept_failed(error))
            else:
                accepted(sock, address)
                pause = self.engine.accept_pause()
                if pause >= LEAST_PAUSE:
                    await asyncio.sleep(pause)

    def _accepted(
        self,
        ssl: Tls | None,
        path: str | None,
        sock: socket.socket,
        address: Any,
    ) -> None:
        remote = address_text(address)
        ip = address[0] if isinstance(address, tuple) else None
        if ssl is None and _can_watch(self.loop):
            try:
                _prepare(sock)
                self._owned(sock, functools.partial(self.engine.accepted, path, None), remote)
            except Error as error:
                sock.close()
                logger.warning("connection of %s refused: %s", remote, described(error))
            except OSError as error:
                # It may have been reset already.
                sock.close()
                if error.errno not in LACKING:
                    logger.debug("connection of %s lost: %s", remote, described(error))
                    return
                self.apart(self.engine.accept_failed, described(error))
            return
        try:
            place = self.engine.enter(ip)
        except Error as error:
            sock.close()
            logger.warning("connection of %s refused: %s", remote, error)
            return
        begun: list[bool] = []
        begin = functools.partial(self.engine.accepted, path, place)
        task = self.start(self._accept_transport(sock, ssl, begin, remote, place, begun))
        self._strangers[place] = task
        task.add_done_callback(functools.partial(self._transport_accepted, sock, place, begun))

    async def _accept_transport(
        self,
        sock: socket.socket,
        ssl: Tls | None,
        begin: Callable[..., int],
        remote: str,
        place: int,
        begun: list[bool],
    ) -> None:
        begun.append(True)
        link = TransportLink(self)
        error: BaseException
        # At the end of the handshake it may show another one.
        context = context_of(ssl, server=True)
        leaf = _leaf_of(context)
        try:
            _prepare(sock)
            await self.loop.connect_accepted_socket(lambda: link, sock, ssl=context)
            shown = (link.address, link.certificate, leaf, ssl is not None)
            self._transported(link, functools.partial(begin, shown=shown), remote)
            return
        except Error as refused:
            logger.warning("connection of %s refused: %s", remote, refused)
            link.gone()
            return
        except (OSError, ssl_module.SSLError, asyncio.TimeoutError) as failed:
            error = failed
        except asyncio.CancelledError:
            link.gone()
            if place not in self._late:
                raise
            error = asyncio.TimeoutError()
        reason = TlsError(f"The TLS handshake failed: {described(error)}")
        logger.warning("connection of %s refused: %s", remote, reason)
        self.emit(events.ConnectionClosed(None, reason, remote))
        link.gone()

    def _transport_accepted(
        self, sock: socket.socket, place: int, begun: list[bool], _: object
    ) -> None:
        del self._strangers[place]
        self._late.discard(place)
        if not begun:
            # Cancelled before that: no transport has the socket.
            sock.close()
        # Once the connection is open, this has no effect.
        with contextlib.suppress(Error):
            self.apart(self.engine.left, place)

    def evict(self, place: int, late: bool) -> None:
        """Closes the connection that has this place; ``late`` when the handshake timeout has expired."""
        task = self._strangers.get(place)
        if task is not None:
            if late:
                self._late.add(place)
            task.cancel()

    # Upgrades that the application judges.

    def upgrade_requested(self, conn: int, path: str, headers: list[tuple[str, str]]) -> None:
        remote, link = self._remotes[conn], self._links[conn]
        address = None if remote == UNIX_SOCKET else remote
        certificate = Certificate._of_der(link.certificate)
        task = self.start(
            self._judge(conn, UpgradeRequest(path, tuple(headers), address, certificate))
        )
        task.set_name("roletalk authenticate")
        # A loop with eager tasks may be done with it.
        if not task.done():
            self._judging[conn] = task

    async def _judge(self, conn: int, request: UpgradeRequest) -> None:
        """Asks the application. It is cancelled when the connection has ended, such as when its time for the
        handshake is up."""
        assert self._authenticate is not None
        deny = functools.partial(self.engine.deny_upgrade, conn)
        try:
            try:
                claims = self._authenticate(request)
                if inspect.isawaitable(claims):
                    claims = await claims
            finally:
                self._judging.pop(conn, None)
            self.engine.allow_upgrade(conn, claims_text(claims))
        except DeniedError as error:
            deny(error.status, error.reason)
        except asyncio.CancelledError:
            deny(503, "authenticate was cancelled")
            raise
        except GeneratorExit:
            # The task was dropped, in whichever thread.
            raise
        except BaseException as error:
            logger.error("authenticate failed for %s", request.address, exc_info=error)
            deny(500, reason_of(error))
            if isinstance(error, ENDS_PROGRAM):
                raise

    # Dialing.

    def dial(self, address: int, url: str) -> None:
        options = self.options.get(address, self._acquaintance)
        task = self.start(self._dial(address, url, options))
        # Also when somebody cancels all tasks, the engine has to know.
        task.add_done_callback(functools.partial(self._dial_ended, address, url, options.timeout))

    async def _dial(self, address: int, url: str, options: ConnectOptions) -> Exception | None:
        try:
            await asyncio.wait_for(self._open(address, url, options), options.timeout)
        except Exception as error:
            # Returned, not raised: a loop that ends would tell of it if it had cancelled the task just then.
            return error
        return None

    def _dial_ended(
        self, address: int, url: str, timeout: float, task: asyncio.Task[Exception | None]
    ) -> None:
        error: BaseException | None
        error = asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()
        if error is None or self.closed:
            return
        if isinstance(error, asyncio.TimeoutError):
            reason = f"`{url}` did not answer in {timeout:g} s"
        elif isinstance(error, Error):
            reason = str(error)
        else:
            reason = f"cannot connect to `{url}`: {described(error)}"
        code = getattr(error, "reason", None) or type(error).__name__
        # Resolvers and OpenSSL have numbers of their own.
        own = (socket.gaierror, ssl_module.SSLError)
        is_os = isinstance(error, OSError) and not isinstance(error, own)
        number = cast(OSError, error).errno if is_os else None
        self.causes[address] = error
        self.engine.dial_failed(address, f"Socket errored: {reason}", str(code), number)

    async def _open(self, address: int, url: str, options: ConnectOptions) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        sock = await self._connect(address, host, port)
        begin = functools.partial(self.engine.dialed, address, url, list(options.headers))
        try:
            if parts.scheme == "ws" and _can_watch(self.loop):
                self._owned(sock, begin, url)
                return
            ssl = None
            if parts.scheme == "wss":
                ssl = context_of(options.ssl) or ssl_module.create_default_context()
            name = None if ssl is None else options.server_hostname or host
            link = TransportLink(self)
            await self.loop.create_connection(
                lambda: link, sock=sock, ssl=ssl, server_hostname=name
            )
        except BaseException:
            sock.close()
            raise
        try:
            shown = (link.address, link.certificate, link.shown, ssl is not None)
            self._transported(link, functools.partial(begin, shown=shown), url)
        except BaseException:
            link.gone()
            raise

    async def _connect(self, number: int, host: str, port: int) -> socket.socket:
        found = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # What is connected to is what was judged: the name may be another machine's the next time.
        admitted = set(self.engine.admit_found(number, [str(at[4][0]) for at in found]))
        found = [at for at in found if at[4][0] in admitted]
        failure: OSError = ConnectionError("the name has no address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                _prepare(sock)
                await self.loop.sock_connect(sock, address)
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure

    def dialed(
        self,
        address: int,
        url: str,
        count: int,
        again: bool,
        unit: Unit | None,
        error: Error | None,
    ) -> None:
        if unit is None and error is None:
            error = ClosedError("The unit is gone")
        cause = self.causes.pop(address, None)
        if error is not None:
            error.__cause__ = cause
        waiter = self.waiters.pop(address, None)
        if waiter is not None and not waiter.done():
            if unit is not None:
                waiter.set_result(unit)
            else:
                waiter.set_exception(error or ConnectFailedError(url))
        if not self.engine.is_dialed(address):
            self.options.pop(address, None)
        if not again:
            return
        if unit is not None:
            self.emit(events.ReconnectSucceeded(url, count, unit))
        elif error is not None:
            self.emit(events.ReconnectFailed(url, count, error))

    # Units and destinations.

    def attached(self, known: Unit | None, number: int, conn: int, description: str) -> Unit:
        if known is None:
            return Unit(self, number, conn, description)
        known._describe(conn, description)
        return known

    def unit_roles(self, unit: Unit | None, roles: list[str]) -> None:
        if unit is not None:
            unit._roles = tuple(roles)

    unit_opened = _emits(events.UnitOpened)
    unit_closed = _emits(events.UnitClosed)
    destination_opened = _emits(events.DestinationOpened)
    destination_closed = _emits(events.DestinationClosed)
    destination_gained = _emits(events.DestinationGained)
    destination_lost = _emits(events.DestinationLost)
    unit_ejected = _emits(events.UnitEjected)
    unit_restored = _emits(events.UnitRestored)
    slow_consumer = _emits(events.SlowConsumer)
    accept_failed = _emits(events.AcceptFailed)
    denied = _emits(events.Denied)

    def auth_refused(self, conn: int, reason: str) -> None:
        self.emit(events.AuthRefused(reason, self._remotes.get(conn, "")))

    def address_ignored(self, unit: Unit | None, url: str, reason: str) -> None:
        logger.debug("the address %s, told by %s, is not dialed: %s", url, unit, reason)

    def connection_closed(self, conn: int, unit: Unit | None, reason: Error) -> None:
        address = self._remotes.pop(conn, "")
        judging = self._judging.pop(conn, None)
        if judging is not None:
            judging.cancel()
        if unit is not None:
            unit._disconnected(conn)
        if isinstance(reason, ProtocolError):
            self.emit(events.BadInput(unit, reason, address))
        elif unit is None and not isinstance(
            # A connection that ends without a word is not worth a warning. Refused keys and evictions have
            # been reported already.
            reason,
            (AuthRefusedError, ClosedError, ConnectionLostError, OverloadedError),
        ):
            logger.warning("the handshake with %s failed: %s", address, reason)
        self.emit(events.ConnectionClosed(unit, reason, address))

    def emit(self, event: events.Event) -> None:
        """Does what an event is the reason for, logs it, and tells whoever wants to know."""
        if isinstance(event, events.UnitClosed):
            _settle([event.unit._closed], None)
        elif isinstance(event, events.DestinationOpened):
            _settle(self.ready.pop(event.role, ()), None)
        elif isinstance(event, events.ReconnectSucceeded):
            self.reconnects += 1
        if event._LOG is not None:
            level, text = event._LOG
            logger.log(level, text, vars(event))
        for subscriber in tuple(self.subscribers):
            subscriber._put(event)
        for callback, types in tuple(self.callbacks):
            if not types or isinstance(event, types):
                try:
                    self.apart(callback, event)
                except Exception:
                    logger.exception("a callback for %s failed", type(event).__name__)

    # The end.

    def idle(self) -> None:
        _settle(self._idle, True)

    async def wait_idle(self) -> bool:
        """Waits until no request, handler or stream is under way; False when the peer is closed before."""
        idle: asyncio.Future[bool] = self.loop.create_future()
        self._idle.append(idle)
        self.engine.drain()
        return await idle

    def request_stop(self) -> None:
        """Has `wait_stop` return; from any thread, or from a signal handler."""
        with contextlib.suppress(RuntimeError):
            # It fails when the loop is closed.
            self.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._must_stop = True
        _settle(self._serving, None)

    async def wait_stop(self) -> None:
        """Waits until `request_stop` is called or the peer is closed."""
        if not (self._must_stop or self.closed):
            stop: asyncio.Future[None] = self.loop.create_future()
            self._serving.append(stop)
            await stop

    def keep(self) -> None:
        """From now on, there is something to be closed when the loop ends."""
        if self._keeper is None:
            self._keeper = self.start(self._keep())
            self._keeper.set_name("roletalk keeper")

    async def _keep(self) -> None:
        """Is cancelled when the loop ends, as `asyncio.run` and others cancel all tasks: then it closes the
        peer, if nobody has, while that can still be done."""
        try:
            await self.loop.create_future()
        except asyncio.CancelledError:
            if self.closed:
                raise
            self._closing = asyncio.current_task()
            self._begin_closing()
            # All tasks have been cancelled: what they do about that is left to them.
            try:
                await self._until_links_are_gone()
            finally:
                self._let_go()

    async def close(self) -> None:
        """Closes all connections and waits for that; then lets go of everything."""
        if self._closing is None:
            if self.closed:
                # With its loop, see `check_end`.
                return
            self._begin_closing()
            closing = self.loop.create_task(self._finish_closing())
            # It may be cancelled before it begins.
            closing.add_done_callback(self._let_go)
            self._closing = closing
        if not self._closing.done():
            # Neither is cancelled when the other is.
            await asyncio.wait([self._closing])

    def _begin_closing(self) -> None:
        self.closed = True
        for listening in tuple(self._listening):
            self.stop_listening(listening)
        self.engine.close()
        self._give_up_waiting()

    async def _finish_closing(self) -> None:
        await self._cancel_tasks()
        await self._until_links_are_gone()
        self._let_go()

    async def _until_links_are_gone(self) -> None:
        self.apart(self.engine.flush)
        while self._links:
            self._links_gone = self.loop.create_future()
            await self._links_gone

    def _give_up_waiting(self) -> None:
        _settle(self._idle, False)
        _settle(self._serving, None)
        waiters: list[asyncio.Future[Any]] = [*self.waiters.values()]
        for waiting in self.ready.values():
            waiters.extend(waiting)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(_engine.peer_closed())
                # Who waits is told; that nobody waits any more is no failure.
                waiter.exception()
        if self._pool is not None:
            self._pool.close()

    async def _cancel_tasks(self) -> None:
        me = asyncio.current_task()
        running = [task for task in (*self._tasks, *self.engine.tasks()) if task is not me]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _let_go(self, *_: object) -> None:
        """Lets go of everything, also when closing was given up midway."""
        if self._is_over:
            return
        self._is_over = True
        for link in tuple(self._links.values()):
            link.gone()
        # Whoever waits is told.
        self.apart(self.engine.flush)
        for subscriber in tuple(self.subscribers):
            subscriber.close()
        if self._guard is not None and not self.loop.is_closed():
            self.loop.remove_reader(self._guard)
        self.engine.unbind()

    def check_end(self) -> None:
        """Lets go of a peer whose loop was closed before the peer: others must not take it for alive. The
        guard has this called, in whichever thread, when it has read in place of the loop."""
        if not self.closed and self.loop.is_closed():
            self.closed = True
            logger.warning("the event loop of peer %s was closed before the peer", self.engine.id)
            for listening in tuple(self._listening):
                self.stop_listening(listening)
            for link in tuple(self._links.values()):
                link.cut()
            self._links.clear()
            if self._pool is not None:
                self._pool.close()
            self.engine.abandon()


def _call_inheriting(
    handler: Callable[[_engine.Context], Any], ctx: _engine.Context, call: _engine.Call
) -> Any:
    set_current_call(call)
    return handler(ctx)


def described(error: BaseException) -> str:
    """What an error of the system's says, or, where it says nothing, what it means."""
    if isinstance(error, asyncio.CancelledError):
        return "its task was cancelled"
    if not str(error):
        for kind, text in _SILENT.items():
            if isinstance(error, kind):
                return text
    return reason_of(error)


_SILENT: dict[type[BaseException], str] = {
    ConnectionRefusedError: "nothing listens there",
    ConnectionError: "the other side closed the connection",
    asyncio.TimeoutError: "it took too long",
}


def address_text(address: Any) -> str:
    """A socket's address as it stands in an URL."""
    if not isinstance(address, tuple):
        return UNIX_SOCKET
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _leaf_of(ssl: Any) -> bytes | None:
    """The certificate that a listener shows, in DER, where what it was given as ``ssl`` knows it as its
    ``leaf``: an ``ssl.SSLContext`` does not tell."""
    leaf: bytes | None = getattr(ssl, "leaf", None)
    return leaf


def _settle(waiters: Iterable[asyncio.Future[T]], result: T) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(result)


def place_of(ctx: _engine.Context) -> str:
    """Role and event of a call, for logs. The other side has chosen them."""
    return _engine.printable(f"{ctx.role}/{ctx.event}")


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # Pings, requests and answers are small and must not wait for each other.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _can_watch(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop can watch sockets for the engine."""
    return _engine.OWNS_SOCKETS and not isinstance(loop, getattr(asyncio, "ProactorEventLoop", ()))
