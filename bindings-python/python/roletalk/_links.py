"""Connections as the event loop sees them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ._host import Host

LEAVING = 0.01
"""Seconds that a transport has to write the last few bytes."""

PROGRESS = 0.5
"""Seconds after which it is looked whether a transport goes on writing."""


class SocketLink:
    """A plain socket: the engine reads and writes it, the loop only watches it."""

    certificate: bytes | None = None

    def __init__(self, host: Host, conn: int, fd: int) -> None:
        self._host = host
        self._conn = conn
        self._fd = fd
        self._timer: asyncio.TimerHandle | None = None
        self.resume()

    def write(self, data: bytes) -> None:
        raise AssertionError("the engine writes to its sockets itself")

    def await_writable(self) -> None:
        host = self._host
        host.apart(host.loop.add_writer, self._fd, host.engine.writable, self._conn)

    def stop_writing(self) -> None:
        self._host.loop.remove_writer(self._fd)

    def pause(self) -> None:
        self._host.loop.remove_reader(self._fd)

    def resume(self) -> None:
        host = self._host
        host.apart(host.loop.add_reader, self._fd, host.engine.readable, self._conn)

    def watch_end(self) -> None:
        """Although nothing is read, the engine is told when the other side hangs up."""
        host = self._host
        host.apart(host.loop.add_reader, self._fd, self._look)

    def _look(self) -> None:
        sock = socket.socket(fileno=self._fd)
        try:
            # Whatever the default of the process is.
            sock.setblocking(False)
            if not sock.recv(1, socket.MSG_PEEK):
                self._host.engine.lost(self._conn)
        except BlockingIOError:
            return
        except OSError as error:
            self._host.engine.lost(self._conn, str(error))
        finally:
            # It is the engine's.
            sock.detach()
        # Nothing more can be seen on it.
        self.pause()

    def part(self, limit: float) -> None:
        """The other side has so many seconds to close its end."""
        # To see the other side's end, also when reading was paused.
        self.resume()
        self._timer = self._host.loop.call_later(limit, self.gone)

    def leave(self) -> None:
        self.gone()

    def gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = self._host.loop
        if not loop.is_closed():
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
        self._host.release(self._conn)

    def cut(self) -> None:
        """The loop has ended. The engine closes the socket."""


class TransportLink(asyncio.Protocol):
    """A transport of the loop's: for TLS, and for loops that watch no sockets."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._conn: int | None = None
        self._early: bytearray | None = bytearray()
        self._transport: asyncio.Transport | None = None
        self._blocked = False
        self._buffered = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, conn: int) -> None:
        """The connection has this number from now on."""
        self._conn = conn
        early, self._early = self._early, None
        assert self._transport is not None
        if self._transport.is_closing():
            self._host.engine.lost(conn)
            return
        # The engine may have it paused again for what came.
        self._transport.resume_reading()
        if early:
            self._host.engine.feed(conn, bytes(early))

    @property
    def shown(self) -> bytes | None:
        """The certificate that the other end has shown, in DER, verified or not."""
        assert self._transport is not None
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.getpeercert(binary_form=True)

    @property
    def certificate(self) -> bytes | None:
        """The same, if TLS has verified it: otherwise anybody can write any name into it."""
        assert self._transport is not None
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        verified = tls is not None and tls.context.verify_mode != ssl.CERT_NONE
        return self.shown if verified else None

    @property
    def address(self) -> str | None:
        """IP address and port of the other end; None for sockets that have none."""
        assert self._transport is not None
        name = self._transport.get_extra_info("peername")
        if not isinstance(name, tuple):
            return None
        # Without the name of the interface.
        host = name[0].partition("%")[0]
        return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # It tells when all is written, not when there is room. (With a mark of 0, asyncio's TLS says
        # that it is full when it is empty.)
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._conn is not None:
            self._host.engine.feed(self._conn, data)
        elif self._early is not None:
            # Until CPython 3.11, a paused TLS transport still hands out what came with the handshake.
            self._early += data

    def eof_received(self) -> None:
        if self._conn is not None:
            self._host.engine.lost(self._conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._conn is not None:
            self._host.engine.lost(self._conn, "" if exc is None else str(exc))

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._stop_timer()
        if self._conn is not None:
            self._host.engine.written(self._conn)

    # What the engine calls.

    def write(self, data: bytes) -> None:
        assert self._transport is not None and self._conn is not None
        self._transport.write(data)
        if not self._blocked:
            self._host.engine.written(self._conn)
        elif self._timer is None:
            self._watch()

    def await_writable(self) -> None:
        raise AssertionError("transports tell when they have written")

    def stop_writing(self) -> None:
        raise AssertionError("transports tell when they have written")

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def watch_end(self) -> None:
        # Bytes before the answer to an upgrade are an error, for which the engine ends the connection.
        self.resume()

    def part(self, limit: float) -> None:
        assert self._transport is not None
        self._stop_timer()
        self._transport.close()
        self._timer = self._host.loop.call_later(limit, self.gone)

    def leave(self) -> None:
        # TLS waits for the other side's end, and uvloop writes at the end of a turn.
        self.part(LEAVING)

    def gone(self) -> None:
        self._stop_timer()
        self._early = None
        if self._transport is not None:
            self._transport.abort()
        if self._conn is not None:
            conn, self._conn = self._conn, None
            self._host.release(conn)

    def cut(self) -> None:
        """The loop has ended: nobody can close the transport properly."""
        if self._transport is not None:
            with contextlib.suppress(Exception):
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def _watch(self) -> None:
        """A connection over which something large goes out slowly is alive."""
        assert self._transport is not None
        buffered = self._transport.get_write_buffer_size()
        if buffered < self._buffered and self._conn is not None:
            self._host.engine.writing(self._conn)
        self._buffered = buffered
        self._timer = self._host.loop.call_later(PROGRESS, self._watch)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
