"""The local node."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import ssl as ssl_module
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Literal,
    TypeVar,
)

from . import _checks, _engine
from ._host import ConnectOptions, Host, Tls, address_text, context_of, described, logger
from ._policy import parsed
from ._signals import caught
from .access import Authenticate
from .balance import Balance, Ejection, Retry
from .codec import Codec, JsonCodec
from .destination import Destination
from .errors import ConnectFailedError, Error, InvalidArgumentError, IoError
from .events import Event, Events
from .limits import Limits
from .role import Middleware, Role, _check_layer
from .stats import PeerStats
from .tls import TlsFiles
from .unit import Unit

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Listener", "Peer"]

M = TypeVar("M", bound=Middleware)
C = TypeVar("C", bound=Callable[[Any], Any])

_SSL = (ssl_module.SSLContext, TlsFiles, type(None))


class Listener:
    """A listening address, from ``Peer.listen()``. It listens until it or the peer is closed, also
    when this object is dropped."""

    def __init__(self, host: Host, sockets: list[socket.socket], url: str) -> None:
        self._host = host
        self._sockets = sockets
        self._url = url
        self._address = sockets[0].getsockname()

    @property
    def address(self) -> Any:
        """The address that is listened on, as ``socket.getsockname`` tells it: host and port."""
        return self._address

    @property
    def port(self) -> int:
        """The port, also when 0 was asked for; 0 for sockets that have none."""
        return self._address[1] if isinstance(self._address, tuple) else 0

    @property
    def url(self) -> str:
        """The address to connect to, with the host as it was given to ``listen``; where that was none, or
        stood for all addresses, with one that a peer on the same machine can dial. For TLS, give ``listen``
        a host that is in the certificate."""
        return self._url

    def close(self) -> None:
        """Stops listening. Connections that were accepted stay."""
        self._host.check_thread()
        for sock in self._sockets:
            self._host.stop_listening(sock)

    def __repr__(self) -> str:
        return f"<Listener {self._url}>"


class Peer:
    """The local node: it offers roles, finds those of others, and is connected to them in any
    direction.

    ``async with Peer(name="worker") as peer`` closes it at the end. A peer belongs to the event loop in
    which it was made, or, when none was running, is entered, listens or connects first. From then on it
    is used in that loop's thread: elsewhere everything raises ``RuntimeError`` and changes nothing, but
    for the properties of peers, roles, destinations and units, and for registering handlers, which any
    thread may do. From other threads, use ``asyncio.run_coroutine_threadsafe``, or ``roletalk.sync``.
    In a process that was forked off, everything raises ``ClosedError``: make new peers there.

    Args:
        name: Is shown to others.
        tags: Are shown to others.
        friendly: Whether the peer takes part in acquaintance: is told of other peers and dials them.
        keys: Preshared keys by id. With any, only peers that share one get in.
        channel_binding: Whether proofs of keys are bound to TLS connections, so that nobody can relay them.
            ``"prefer"``: a challenge that names another connection is refused; one that names none, as from
            an original, is answered. ``"require"``: keys are proved only for a challenge that names this
            connection. ``"disable"``: connections are neither named nor compared, for proxies that terminate
            TLS with another certificate. The certificate of the listener names a connection, because
            Python's ``ssl`` has no exporter. A listener with an ``ssl.SSLContext`` does not know its own
            certificate, and names nothing.
        peer_key: The peer's own key: 32 random bytes (an Ed25519 seed), to be kept secret. The first 44
            characters of the peer's ``id`` are the name of the key (``Identity.peer``). Over TLS nobody else
            can claim that id, and others recognize the peer by the name after a restart. None: the id is
            random.
        policy: Who may call and serve what, as for ``set_policy``. None: everyone may do everything.
        origins: Origins whose pages may connect, such as ``"https://app.example.org"``, or ``"*"`` for all.
            Default: none; upgrades with any ``Origin`` are refused with 403. Only browsers send one, and
            without this check any page opened on this machine could connect.
        identity_headers: Names of headers of upgrades that are kept as part of the ``Identity``, at most 8
            KiB in all. Whoever dials chooses what is in them, unless a proxy does.
        authenticate: A function, plain or ``async def``, that judges each upgrade before it is answered. It
            gets an ``UpgradeRequest``, and returns claims, a mapping with a JSON form of at most 8 KiB,
            which become part of the ``Identity``. ``sub`` is the subject, and is the same on all connections
            of a unit. To refuse, it raises a ``DeniedError``; any other exception refuses with 500, and is
            logged. It is called in the loop, in a copy of the context in which the peer was bound. Its time
            counts towards the handshake timeout (``Limits.handshake_timeout``). It is cancelled then, when
            the other side hangs up, or when the peer is closed. A plain function must not block.
        limits: Bounds on memory and time.
        reconnect_cap: The longest wait between two attempts to reach an address, in seconds.
        reconnect_jitter: The share of each wait that is random, from 0 to 1.
        balance: How units are chosen among those that serve a role, where neither the destination nor the
            call says it. ``"least_loaded"``: one after the other, but instead of one another that has fewer
            requests to answer, or answers them clearly faster. ``"round_robin"``: one after the other. Or a
            function: it gets a ``Candidate`` for each unit that can be asked, and returns the ``unit`` of
            one, or None when none of them will do, which is as if there were none. It is called in the loop's
            thread for each choice, again when something goes on to another unit, and must not block.
        eject: Which units are left out for a while because they keep failing, where the destination does not
            say it: as an ``Ejection`` says, with True as its defaults say. None or False: no unit.
        codec: Makes JSON of objects and objects of JSON; default is a ``JsonCodec``, the standard library's
            ``json``, whatever else is installed. ``OrjsonCodec`` is faster.
        threads: How many threads may call handlers that are plain functions.
        acquaintance_ssl: The context, or the ``TlsFiles``, for ``wss`` addresses that other units tell.
        acquaintance_networks: The networks in which addresses from other units are dialed, a list or a text
            with commas: ``"public"``, ``"private"``, ``"loopback"``, ``"link_local"``, blocks such as
            ``"10.0.0.0/8"``, or ``"near"``, which stands for loopback and private addresses from units that
            have such an address themselves. Default ``"public, near"``. Addresses given to ``connect`` are
            not filtered.
        acquaintance_ports: The ports of these addresses, a list or a text with commas: numbers, ranges such
            as ``"9000-9100"``, or ``"any"``. Default ``"80, 443, 1024-65535"``: below that are mail, name
            servers and the like.

    Raises:
        InvalidArgumentError: For an invalid key, policy, origin or header name, for an unknown balance or
            channel binding, and for invalid networks or ports.
        ValueError: For a number that cannot be one of these settings.
        TypeError: For a setting of another type.
    """

    def __init__(
        self,
        name: str = "",
        *,
        tags: Mapping[str, str] | None = None,
        friendly: bool = True,
        keys: Mapping[str, str] | None = None,
        channel_binding: Literal["disable", "prefer", "require"] = "prefer",
        peer_key: bytes | None = None,
        policy: Mapping[str, Any] | str | None = None,
        origins: Iterable[str] = (),
        identity_headers: Iterable[str] = (),
        authenticate: Authenticate | None = None,
        limits: Limits | None = None,
        reconnect_cap: float = 60.0,
        reconnect_jitter: float = 0.0,
        balance: Balance = "least_loaded",
        eject: bool | Ejection | None = None,
        codec: Codec | None = None,
        threads: int = 8,
        acquaintance_ssl: Tls | None = None,
        acquaintance_networks: str | Iterable[str] | None = None,
        acquaintance_ports: str | Iterable[str | int] | None = None,
    ) -> None:
        _checks.texts("tags", tags)
        _checks.texts("keys", keys)
        _checks.instance("channel_binding", channel_binding, str, "a str")
        _checks.instance("peer_key", peer_key, (bytes, type(None)), "bytes")
        if authenticate is not None and not callable(authenticate):
            kind = type(authenticate).__name__
            raise TypeError(f"authenticate must be a function, not {kind}")
        _checks.instance("limits", limits, (Limits, type(None)), "a roletalk.Limits")
        _checks.seconds("reconnect_cap", reconnect_cap)
        _checks.instance("reconnect_jitter", reconnect_jitter, (int, float), "a number")
        if not 0 <= reconnect_jitter <= 1:
            raise ValueError("reconnect_jitter must be from 0 to 1")
        _checks.instance("threads", threads, int, "an int")
        if threads < 1:
            raise ValueError("threads must be at least 1")
        _checks.instance(
            "acquaintance_ssl", acquaintance_ssl, _SSL, "an ssl.SSLContext or a roletalk.TlsFiles"
        )
        codec = JsonCodec() if codec is None else codec
        for method in ("dumps", "loads"):
            if not callable(getattr(codec, method, None)):
                raise TypeError(f"codec must have a method `{method}`")
        limits = limits or Limits()
        self._engine = _engine.Engine(
            name=name,
            tags=list((tags or {}).items()),
            friendly=friendly,
            keys=list((keys or {}).items()),
            channel_binding=channel_binding,
            peer_key=peer_key,
            policy=parsed(policy),
            origins=_checks.names("origins", origins),
            identity_headers=_checks.names("identity_headers", identity_headers),
            authenticates=authenticate is not None,
            limits=limits._given(),
            reconnect=(reconnect_cap, reconnect_jitter),
            balance=balance,
            eject=eject,
            runtime=f"{platform.python_implementation()} {platform.python_version()}",
            dumps=codec.dumps,
            loads=codec.loads,
            acquaintance=(
                _checks.listed("acquaintance_networks", acquaintance_networks),
                _checks.listed("acquaintance_ports", acquaintance_ports),
            ),
        )
        self._name = name
        self._layers: list[Middleware] = []
        self._roles: dict[str, Role] = {}
        self._destinations: dict[str, Destination] = {}
        self._host = Host(self._engine, ConnectOptions(ssl=acquaintance_ssl), threads, authenticate)
        self._listeners: list[Listener] = []
        try:
            self._host.bind()
        except RuntimeError:
            # No loop is running yet.
            pass

    @property
    def id(self) -> str:
        """This peer's id, unique for its lifetime: 32 hexadecimal digits."""
        return self._engine.id

    @property
    def name(self) -> str:
        """This peer's name."""
        return self._name

    @property
    def tags(self) -> Mapping[str, str]:
        """This peer's tags."""
        return dict(self._engine.tags())

    def set_tag(self, key: str, value: str) -> None:
        """Sets a tag. Units that connect from now on see it."""
        self._engine.set_tag(key, value)

    def add_preshared_key(self, id: str, key: str) -> None:
        """Adds a preshared key, or replaces the one with this id. Connections that are up stay.

        Args:
            id: The key's name, which both sides know.
            key: The secret.

        Raises:
            InvalidArgumentError: When either is empty or longer than 1024 bytes.
        """
        self._engine.add_key(id, key)

    def remove_preshared_key(self, id: str) -> bool:
        """Removes a preshared key. Without any key everyone gets in.

        Args:
            id: The key's name.

        Returns:
            False when there is none.
        """
        return self._engine.remove_key(id)

    def set_policy(self, policy: Mapping[str, Any] | str | None) -> None:
        """Sets who may call and serve what from now on, including connected units. Stops watching a policy
        file. ::

            peer.set_policy({
                "default": "deny",
                "rules": [{"who": {"key": "billing"}, "call": ["payments/*"]}],
            })

        What the policy does not allow is rejected before any handler is looked for (``RejectedError`` with
        the code ``NOT_ALLOWED``), and a role that a unit announces without permission does not exist for
        this peer. The event ``Denied`` reports both.

        Args:
            policy: The policy as a mapping, or its JSON; None allows everything.

        Raises:
            InvalidArgumentError: For what is no policy. Its text says where and what is wrong; nothing has
                changed then.
            TypeError: For something of another type.
        """
        self._host.policy.set(policy)

    async def watch_policy(self, path: str | os.PathLike[str]) -> None:
        """Takes the policy from a file, in JSON, and again within a second after each of its changes. A file
        that cannot be read or has a fault changes nothing: the event ``PolicyFailed`` says why, once for each
        change of the file; ``PolicyLoaded`` says that a new one is in force. Replace the file as a whole
        (``os.replace``).

        It is watched until ``set_policy`` or ``watch_policy`` is called again, or the peer is closed.
        Cancelling this before it has returned changes nothing.

        Args:
            path: The file.

        Raises:
            InvalidArgumentError: When there is no usable policy in it now; nothing has changed then.
            ClosedError: When the peer is closed.
        """
        self._host.check_open()
        self._host.bind()
        await self._host.policy.watch(path)

    # Roles and destinations.

    def role(self, name: str, *, active: bool = True) -> Role:
        """The role of this name, added if it is new.

        Args:
            name: The role's name.
            active: Whether a new one is offered at once; if not, ``Role.enable()`` offers it.

        Returns:
            The role, the same for the same name.

        Raises:
            InvalidArgumentError: When the name is empty or longer than 65535 bytes.
            ClosedError: When the peer is closed.
        """
        self._host.check_open()
        role = self._roles.get(name)
        if role is None:
            self._engine.add_role(name, active)
            role = self._roles[name] = Role(self._host, self._layers, name)
        return role

    @property
    def roles(self) -> list[Role]:
        """All roles, in the order in which they were added."""
        return list(self._roles.values())

    def destination(
        self,
        role: str,
        *,
        wait_for_unit: bool | None = None,
        balance: Balance | None = None,
        prefer: Mapping[str, str] | None = None,
        eject: bool | Ejection | None = None,
        max_in_flight: float | None = None,
        retry: Retry | Literal[False] | None = None,
    ) -> Destination:
        """The destination of this name, added if it is new. Acquaintance looks for the roles of
        destinations.

        What is set here is for all who use this destination and do not say otherwise; None leaves it as it
        is.

        Args:
            role: The name of the role that other peers offer.
            wait_for_unit: Whether its requests and streams wait for a unit, within their timeouts, when none
                serves the role: then it does not matter who starts first. At first, ``NoUnitError`` is
                raised.
            balance: How units are chosen; at first as the peer was told.
            prefer: Tags: only units that have all of these get something as long as one of them can be asked;
                all others otherwise. At first none.
            eject: Which units are left out for a while because they keep failing: as an ``Ejection`` says,
                with True as its defaults say, with False none. At first as the peer was told. A function
                chooses among the others, and a unit that is asked with ``to`` is asked all the same.
            max_in_flight: How many requests may be in flight at a time, an int, those for streams and those
                with ``to`` included; surveys are not. A further one raises ``OverloadedError``. At first, and
                with ``math.inf``, there is no bound. When it changes, those that are in flight do not count.
            retry: A ``Retry`` says that its requests may be handled more than once, and how they are made
                again. At first, and with False, nothing is made again that may have begun. Streams, messages,
                broadcasts and surveys never are.

        Returns:
            The destination, the same for the same name.

        Raises:
            InvalidArgumentError: When the name is empty or longer than 65535 bytes, and for a balance that
                there is not.
            ValueError: For a number that cannot be one of these settings.
            TypeError: For a setting of another type.
            ClosedError: When the peer is closed.
        """
        self._host.check_open()
        _checks.instance("wait_for_unit", wait_for_unit, (bool, type(None)), "a bool")
        destination = self._destinations.get(role)
        made = Destination._make(self._host, role) if destination is None else destination
        # Nothing is added when something is wrong with the options.
        made._set(balance, prefer, eject, max_in_flight, retry)
        if destination is None:
            self._engine.add_destination(role)
            self._destinations[role] = made
        if wait_for_unit is not None:
            made._waits = wait_for_unit
        return made

    @property
    def destinations(self) -> list[Destination]:
        """All destinations, in the order in which they were added."""
        return list(self._destinations.values())

    @property
    def units(self) -> list[Unit]:
        """All connected units, in no particular order."""
        return self._engine.units()

    def middleware(self, layer: M) -> M:
        """Adds middleware, ``async def layer(ctx, call_next)``, for everything that any role handles. A
        decorator.

        It sees what passes the checks (the role is offered, the event has a handler), in the order in
        which it was added, before the roles' own. What it returns is the answer; it may change the
        payload with ``call_next(ctx.with_data(...))``, or raise to reject. When the handler is cancelled, it
        is what is cancelled.

        Args:
            layer: The ``async def`` function.

        Returns:
            The same.

        Raises:
            TypeError: When it is none.
        """
        _check_layer(layer)
        self._layers.append(layer)
        for role in self._roles.values():
            role._install_all()
        return layer

    # Connections.

    async def listen(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        ssl: Tls | None = None,
        path: str | None = None,
        sock: socket.socket | None = None,
    ) -> Listener:
        """Listens on a host's addresses (all of the machine's for None) and a port, 0 for a free one, which
        ``Listener.port`` tells; or on ``sock``, which is bound already, a Unix socket for example, and is
        closed with the listener. May be called several times.

        Args:
            host: A name or address; None for all of the machine's.
            port: The port; 0 for a free one.
            ssl: Makes it ``wss``: a context, or a ``TlsFiles``, whose certificates change while it listens.
            path: Only upgrades to this path, such as ``/rt``, are served, others get 400.
            sock: Listens on this instead.

        Returns:
            The listener, which tells the address and stops listening.

        Raises:
            IoError: When the address cannot be listened on.
            InvalidArgumentError: For a path that does not begin with a slash, and for a port over 65535.
            ClosedError: When the peer is closed.
        """
        self._host.check_open()
        _checks.instance(
            "host", host, (str, type(None)), 'a str or None, as in listen("127.0.0.1", 9000)'
        )
        _checks.instance("port", port, int, "an int")
        if not 0 <= port <= 65535:
            raise InvalidArgumentError(f"The port {port} must be from 0 to 65535")
        _checks.instance("ssl", ssl, _SSL, "an ssl.SSLContext or a roletalk.TlsFiles")
        _checks.instance("path", path, (str, type(None)), "a str")
        _checks.instance("sock", sock, (socket.socket, type(None)), "a socket")
        if path is not None and not path.startswith("/"):
            raise InvalidArgumentError(f"The path `{path}` must begin with /")
        # Whether it has a certificate is known before anything is bound.
        context_of(ssl, server=True)
        self._host.bind()
        try:
            sockets = [sock] if sock is not None else await _bind(self._host.loop, host, port)
            try:
                self._host.check_open()
                for each in sockets:
                    each.listen(4096)
                    each.setblocking(False)
            except BaseException:
                if sock is None:
                    _close_all(sockets)
                raise
        except (OSError, UnicodeError) as error:
            where = str(sock) if sock is not None else address_text((host or "*", port))
            failed = IoError(f"The address {where} cannot be listened on: {described(error)}")
            errno = error.errno if isinstance(error, OSError) else None
            hint = None if errno is None else _engine.listen_hint(where, errno)
            if hint is not None:
                failed._set_hint(hint)
            raise failed from error
        self._host.keep()
        for each in sockets:
            self._host.listen(each, ssl, path)
        self._host.use_tls(ssl)
        scheme = "ws" if ssl is None else "wss"
        url = _url(scheme, None if sock is not None else host, sockets[0], path or "")
        for each in sockets:
            logger.info("listening on %s (%s)", url, address_text(each.getsockname()))
        return Listener(self._host, sockets, url)

    async def connect(
        self,
        url: str,
        *,
        ssl: Tls | None = None,
        server_hostname: str | None = None,
        headers: Mapping[str, str] | None = None,
        permanent: bool = True,
        timeout: float = 10.0,
    ) -> Unit:
        """Connects to a ``ws://`` or ``wss://`` address, and returns the unit that answered.

        The address is dialed again whenever the connection is lost, until ``disconnect()``, unless it
        is not ``permanent``. After a failure, too: a program that may start first takes ``dial``, and waits
        with ``Destination.wait_ready()``. Cancelling it only gives up waiting.

        Args:
            url: The address.
            ssl: Verifies the other side of ``wss`` addresses: a context, or a ``TlsFiles``, of which each
                attempt takes what is in force then; default are the system's roots.
            server_hostname: What the certificate is to be for, in place of the address's host.
            headers: HTTP headers that go into the upgrade, that of each attempt.
            permanent: Whether it is dialed again.
            timeout: Seconds for name lookup, TCP and TLS together; upgrade and handshake have
                ``Limits.handshake_timeout``.

        Returns:
            The unit that answered.

        Raises:
            ConnectFailedError: When it cannot be reached.
            ConnectionLostError: When the other side hangs up instead of answering.
            AuthRefusedError: When one side does not accept the other's key.
            InvalidArgumentError: For what is no address, for ``ssl`` with a ``ws`` address, and for headers
                that are none; it is not dialed then.
            ClosedError: When the peer is closed.
        """
        address = self._dial(url, ssl, server_hostname, headers, permanent, timeout)
        waiter: asyncio.Future[Unit] = self._host.loop.create_future()
        self._host.waiters[address] = waiter
        return await waiter

    def dial(
        self,
        url: str,
        *,
        ssl: Tls | None = None,
        server_hostname: str | None = None,
        headers: Mapping[str, str] | None = None,
        permanent: bool = True,
        timeout: float = 10.0,
    ) -> None:
        """Begins to connect to an address, as ``connect`` with the same arguments, and waits for nothing:
        for a program that may start before the other. Wait for what it needs with
        ``Destination.wait_ready()``; failures are the events ``ReconnectFailed``.

        Args:
            url: As in ``connect``, as are the others.

        Raises:
            InvalidArgumentError: As ``connect``.
            ClosedError: When the peer is closed.
        """
        self._dial(url, ssl, server_hostname, headers, permanent, timeout)

    def _dial(
        self,
        url: str,
        ssl: Tls | None,
        server_hostname: str | None,
        headers: Mapping[str, str] | None,
        permanent: bool,
        timeout: float,
    ) -> int:
        self._host.check_open()
        _checks.instance("ssl", ssl, _SSL, "an ssl.SSLContext or a roletalk.TlsFiles")
        if ssl is not None and not url.lower().startswith("wss:"):
            raise InvalidArgumentError(
                f"The address `{url}` must begin with wss:// for ssl to be used"
            )
        _checks.instance("server_hostname", server_hostname, (str, type(None)), "a str")
        _checks.texts("headers", headers)
        _checks.seconds("timeout", timeout)
        pairs: list[tuple[str, str]] = list((headers or {}).items())
        self._host.bind()
        address = self._engine.connect(url, permanent, pairs)
        self._host.keep()
        self._host.options[address] = ConnectOptions(ssl, server_hostname, pairs, timeout)
        self._host.use_tls(ssl)
        return address

    def disconnect(self, url: str) -> bool:
        """Stops dialing an address. A connection that is up stays: close its unit to end it. One that
        is being opened is given up.

        Args:
            url: The address, as it was given to ``connect`` or ``dial``.

        Returns:
            False when the address is not dialed.
        """
        forgotten = self._engine.forget_url(url)
        for address in forgotten:
            self._host.options.pop(address, None)
            waiter = self._host.waiters.pop(address, None)
            if waiter is not None and not waiter.done():
                text = f"`{url}` is not to be dialed any more"
                waiter.set_exception(ConnectFailedError(text))
        return bool(forgotten)

    # Certificates.

    def reload_tls(self) -> None:
        """Reads the files of every ``TlsFiles`` again that this peer listens or dials with, which may block.

        Raises:
            TlsError: For the first that cannot be used. All are tried; those that can be used are in force.
        """
        failure = None
        for files in list(self._host.tls_used):
            try:
                files.reload()
            except Error as error:
                failure = failure or error
        if failure is not None:
            raise failure

    @property
    def tls_expires(self) -> datetime | None:
        """The earliest expiry of the ``TlsFiles`` that this peer listens or dials with; None if that is not
        known. An ``ssl.SSLContext`` does not count."""
        times = [files.expires for files in list(self._host.tls_used)]
        return min((time for time in times if time is not None), default=None)

    # Events and counters.

    def events(self) -> Events:
        """Subscribes to what happens from now on: ``async for event in peer.events()`` gives objects of the
        subclasses of ``Event``, until the peer is closed.

        Returns:
            The events, to be iterated over.
        """
        subscriber = Events(self._host)
        if self._host.closed:
            subscriber.close()
        self._host.subscribers.add(subscriber)
        return subscriber

    def on(self, *types: type[Event]) -> Callable[[C], C]:
        """A decorator: has the loop call a function with each event of these types, or with every one.
        ::

            @peer.on(roletalk.UnitOpened, roletalk.UnitClosed)
            def changed(event): ...

        Args:
            types: Subclasses of ``Event``.

        Returns:
            The decorator.

        Raises:
            TypeError: For other types.
        """

        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, Event)):
                # Such as the callback itself, of `@peer.on` without types.
                raise TypeError("the types of events must be subclasses of Event")

        def add(callback: C) -> C:
            self._host.callbacks.append((callback, types))
            return callback

        return add

    def stats(self) -> PeerStats:
        """Counters of this peer and of all its units.

        Returns:
            The counters as they are now.
        """
        handshakes, queued = self._engine.stats()
        units = {unit: unit.stats() for unit in self.units}
        ignored = self._engine.addresses_ignored()
        return PeerStats(units, handshakes, queued, self._host.reconnects, ignored)

    # The end.

    @property
    def is_closed(self) -> bool:
        """Whether the peer was closed."""
        return self._host.closed

    async def serve(self, *, drain: float = 10.0) -> bool:
        """Serves until the process gets SIGINT, such as by Ctrl-C, or SIGTERM, or until somebody closes the
        peer; then drains it, as ``drain(drain)`` does. For the end of a service's ``main``. ::

            listener = await peer.listen("127.0.0.1", 9000)
            await peer.serve()

        A second signal ends the process at once, as if there were no handler. Several peers may serve in the
        same process. While they do, handlers that others have set for the two signals are not called.

        Cancelling it stops nothing.

        Args:
            drain: Seconds for what is under way.

        Returns:
            True when everything that was under way had finished.

        Raises:
            ClosedError: When the peer is closed.
            RuntimeError: Outside of the main thread, which alone hears of signals.
        """
        self._host.check_open()
        _checks.instance("drain", drain, (int, float), "a number of seconds")
        self._host.bind()
        with caught(self._host.request_stop, self._host.loop):
            return await self._serve(drain)

    async def _serve(self, drain: float) -> bool:
        await self._host.wait_stop()
        if not self._host.closed:
            logger.info("peer %r stops serving", self._name)
            return await self.drain(drain)
        await self.close()
        return True

    async def drain(self, timeout: float = 10.0) -> bool:
        """Withdraws the roles, serves what units have sent before they know (at most a second), lets running
        requests and streams, in both directions, finish within ``timeout`` seconds, then closes: for the end
        of a service, see ``serve``. Requests that come too late go on to other units; those of an original
        are handled as long as it is connected. Cancelling it closes at once.

        Args:
            timeout: Seconds for what is under way.

        Returns:
            True when everything had finished; False when the time was up, or when the peer was closed
            meanwhile.

        Raises:
            ClosedError: When the peer is closed.
        """
        self._host.check_open()
        _checks.instance("timeout", timeout, (int, float), "a number of seconds")
        self._host.bind()
        try:
            return await asyncio.wait_for(self._host.wait_idle(), timeout)
        except asyncio.TimeoutError:
            return False
        finally:
            await self.close()

    async def close(self) -> None:
        """Closes all connections with code 4000, stops listening and dialing, cancels running handlers that
        are tasks, and waits until these have ended and the other sides have answered: for that at most about
        two seconds.

        May be called several times.
        """
        if self._host.loop is None or not self._host.closed:
            self._host.bind()
        await self._host.close()

    async def __aenter__(self) -> Peer:
        self._host.check_open()
        self._host.bind()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Peer {self._name!r} {self.id}>"


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


async def _bind(
    loop: asyncio.AbstractEventLoop, host: str | None, port: int
) -> list[socket.socket]:
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            if hasattr(socket, "AF_INET6") and family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if platform.system() != "Windows":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Port 0 is the same free port for all addresses.
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
    except BaseException:
        _close_all(sockets)
        raise
    return sockets


def _url(scheme: str, given: str | None, sock: socket.socket, path: str) -> str:
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"{scheme}://localhost{path}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], given or name[0])
    return f"{scheme}://{address_text((host, name[1]))}{path}"
