"""Certificates from files, which change while they are in use."""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
import weakref
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Callable, NamedTuple, Union

from . import _checks, _engine
from .errors import Error, InvalidArgumentError, TlsError
from .events import Event, TlsReloaded, TlsReloadFailed

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["TlsFiles"]

Path = Union[str, "os.PathLike[str]"]

SETTLING = 1.0
"""How soon files that cannot be used are looked at again, in seconds: they may only be half written."""

_BEGIN = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


class _Loaded(NamedTuple):
    read: tuple[bytes | None, ...]
    server: ssl.SSLContext | None
    client: ssl.SSLContext
    expires: float | None


class _Refused(NamedTuple):
    read: tuple[bytes | None, ...] | None
    text: str
    told: bool


class TlsFiles:
    """Certificate, key and authorities from files, for ``ssl`` of ``Peer.listen``, ``Peer.connect`` and
    ``Peer.dial`` in place of an ``ssl.SSLContext``. They can change while they are in use: new handshakes use
    the new ones, existing connections stay. Incomplete, expired or mismatched certificates change nothing. ::

        tls = roletalk.TlsFiles("service.pem", "service.key", "ca.pem", watch=60)
        await peer.listen("0.0.0.0", 9000, ssl=tls)

    A listener shows the certificate. If authorities are given, it accepts only clients with a certificate
    signed by one of them. A dialer trusts these authorities, or the system's if none are given, and shows the
    certificate, if there is one. Any thread may use it.

    Args:
        cert: The file of the certificate chain (PEM), leaf first. A listener needs one.
        key: The file of its key (PEM); None when that is in the file of the certificate.
        ca: The file of the authorities (PEM).
        watch: The interval between two checks of the files, in seconds, while a peer uses them. Changed files
            are loaded, and each peer that uses them emits the event ``TlsReloaded``. Unusable files are
            retried at each check, and reported once for each change, when a second check, after at most a
            second, finds the same fault: with the event ``TlsReloadFailed`` and a warning in the log.
            Watching ends with the peer, or when this object is no longer used. None: only ``reload`` reads
            the files.
        configure: Called with each context made from the files, for further settings.

    Raises:
        TlsError: When a file cannot be read, when key and certificate do not fit together, and when a
            certificate is not valid now.
        ValueError: For a number that is out of range.
        TypeError: For a setting of another type.
    """

    def __init__(
        self,
        cert: Path | None = None,
        key: Path | None = None,
        ca: Path | None = None,
        *,
        watch: float | None = None,
        configure: Callable[[ssl.SSLContext], object] | None = None,
    ) -> None:
        for name, path in (("cert", cert), ("key", key), ("ca", ca)):
            _checks.instance(name, path, (str, os.PathLike, type(None)), "a path")
        if cert is None and key is not None:
            raise InvalidArgumentError("a key needs a certificate: give `cert`")
        if cert is None and ca is None:
            raise InvalidArgumentError("give `cert` and `key`, or `ca`, or all of them")
        if watch is not None:
            _checks.seconds("watch", watch)
        self._cert = cert
        self._key = key
        self._ca = ca
        self._watch = watch
        self._configure = configure
        self._lock = threading.Lock()
        self._refused: _Refused | None = None
        self._hosts: weakref.WeakSet[Host] = weakref.WeakSet()
        self._loaded = self._load(self._read())

    def reload(self) -> None:
        """Reads the files again, which may block, whether or not they have changed.

        Raises:
            TlsError: As the constructor; then all stays as it was.
        """
        with self._lock:
            self._take(self._read())
        self._tell(TlsReloaded(self.expires))

    @property
    def expires(self) -> datetime | None:
        """When the files in force expire: when any certificate of the chain does, or when the last of the
        authorities does, whichever is earlier. None if that is not known."""
        expires = self._loaded.expires
        return None if expires is None else datetime.fromtimestamp(expires, timezone.utc)

    def __repr__(self) -> str:
        return f"<TlsFiles {self._names()}>"

    # For hosts.

    def _context(self, *, server: bool) -> ssl.SSLContext:
        loaded = self._loaded
        if not server:
            return loaded.client
        if loaded.server is None:
            raise InvalidArgumentError("a listener needs a certificate: give `cert` and `key`")
        return loaded.server

    def _next_look(self) -> float | None:
        if self._watch is None:
            return None
        settling = self._refused is not None and not self._refused.told
        return min(self._watch, SETTLING) if settling else self._watch

    def _look(self) -> None:
        """Looks whether the files have changed."""
        with self._lock:
            event = self._changed()
        if event is not None:
            self._tell(event)

    def _changed(self) -> Event | None:
        read = None
        try:
            read = self._read()
            if read == self._loaded.read:
                self._refused = None
                return None
            self._take(read)
        except Error as error:
            refused = self._refused
            if refused is None or (refused.read, refused.text) != (read, str(error)):
                self._refused = _Refused(read, str(error), told=False)
                return None
            if refused.told:
                return None
            # It was not just half written.
            self._refused = refused._replace(told=True)
            return TlsReloadFailed(error)
        return TlsReloaded(self.expires)

    def _tell(self, event: Event) -> None:
        for host in list(self._hosts):
            if not host.closed:
                host.hand_over(host.emit, event)

    # Reading.

    def _names(self) -> str:
        paths = (self._cert, self._key, self._ca)
        return ", ".join(f"`{os.fspath(path)}`" for path in paths if path is not None)

    def _stays(self, why: object) -> TlsError:
        return TlsError(f"{self._names()} are not taken, and what was in force stays: {why}")

    def _read(self) -> tuple[bytes | None, ...]:
        try:
            return tuple(
                None if path is None else _content(path)
                for path in (self._cert, self._key, self._ca)
            )
        except OSError as error:
            raise self._stays(error) from error

    def _take(self, read: tuple[bytes | None, ...]) -> None:
        self._loaded = self._load(read)
        self._refused = None

    def _load(self, read: tuple[bytes | None, ...]) -> _Loaded:
        cert, _, ca = read
        try:
            chain, authorities = _validities(cert), _validities(ca)
            _check_time(chain, authorities)
            client = ssl.create_default_context(cadata=None if ca is None else ca.decode("latin-1"))
            server: ssl.SSLContext | None = None
            if self._cert is not None:
                server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                for own in (client, server):
                    # OpenSSL finds what does not fit together.
                    own.load_cert_chain(self._cert, self._key)
                # Proofs of preshared keys name it.
                server.leaf = _certificates(cert)[0]  # type: ignore[attr-defined]
                if ca is not None:
                    server.load_verify_locations(cadata=ca.decode("latin-1"))
                    server.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:
            # `SSLError` is one of the former.
            raise self._stays(error) from error
        if self._read() != read:
            raise self._stays("they have changed while they were read")
        if self._configure is not None:
            for context in (client, server):
                if context is not None:
                    self._configure(context)
        times = [after for _, after in chain]
        if authorities:
            times.append(max(after for _, after in authorities))
        return _Loaded(read, server, client, min(times) if times else None)


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _certificates(pem: bytes | None) -> list[bytes]:
    """The certificates in DER."""
    if pem is None:
        return []
    whole = _CERTIFICATE.findall(pem)
    if len(whole) < len(_BEGIN.findall(pem)):
        raise ValueError("the PEM ends within a certificate")
    if not whole:
        raise ValueError("the PEM has no certificate")
    return [ssl.PEM_cert_to_DER_cert(one.decode("ascii")) for one in whole]


def _validities(pem: bytes | None) -> list[tuple[float, float]]:
    """From when and until when each certificate is valid."""
    return [_engine.validity(der) for der in _certificates(pem)]


def _check_time(chain: list[tuple[float, float]], authorities: list[tuple[float, float]]) -> None:
    now = time.time()
    for validity in chain:
        if (why := _why_not(validity, now)) is not None:
            raise ValueError(f"a certificate {why}")
    # Bundles often have some that have expired.
    reasons = [_why_not(validity, now) for validity in authorities]
    if reasons and all(reasons):
        raise ValueError(f"none of the authorities is valid: one {reasons[0]}")


def _why_not(validity: tuple[float, float], now: float) -> str | None:
    before, after = (datetime.fromtimestamp(at, timezone.utc) for at in validity)
    if now > validity[1]:
        return f"has expired on {after:%Y-%m-%d %H:%M:%S} UTC"
    if now < validity[0]:
        return f"begins in the future, on {before:%Y-%m-%d %H:%M:%S} UTC"
    return None
