"""What is compared. Each system has a server that echoes requests and counts the bytes of uploads, and a
client. All carry a number that tells which answer belongs to which request, on one connection.

What is not installed raises ``ImportError`` from its ``version()``.
"""

from __future__ import annotations

import asyncio
import platform
import struct
import time
from collections.abc import AsyncIterator, Awaitable
from importlib.metadata import version
from typing import Any, Callable, Protocol

HOST = "127.0.0.1"
HEAD = struct.Struct("!II")
"""Length of the payload, number of the request."""
UPLOAD, END = 0, 0
"""The number that chunks have, and the length of the one behind the last."""
COPY = 4096
"""From this size on a payload is written for itself, rather than copied behind its head."""
TURN = 64
"""Messages that are sent between two looks at the clock."""

Chunks = Callable[[], AsyncIterator[bytes]]


class Client(Protocol):
    def request(self, data: bytes) -> Awaitable[Any]:
        """The answer to a request."""

    async def messages(self, data: bytes, end: float) -> int:
        """Sends one-way messages until then, by ``perf_counter``; how many the server got."""

    async def upload(self, chunks: Chunks) -> int:
        """Sends all chunks, waiting while the server is not ready for more; how many bytes it got."""


class System(Protocol):
    name: str

    def version(self) -> str:
        """Which version is installed."""

    async def serve(self) -> str:
        """Starts the server; its address."""

    async def connect(self, address: str) -> Client:
        """Connects a client."""


class Uploads:
    """A server's handler, for systems that have only messages: each begins with `HEAD`."""

    def __init__(self) -> None:
        self._uploaded = 0

    async def handle(self, length: int, number: int, data: bytes) -> bytes | None:
        """What is sent back, if anything: requests as they are, at the end of an upload its size."""
        if number != UPLOAD:
            return data
        if length != END:
            self._uploaded += len(data)
            return None
        uploaded, self._uploaded = self._uploaded, 0
        return str(uploaded).encode()


class MessageClient:
    """A client of such a server, over what ``send`` sends."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._last = UPLOAD
        self._uploaded: asyncio.Queue[bytes] = asyncio.Queue()
        self._reading = asyncio.create_task(self.read())

    def send(self, head: bytes, data: bytes) -> Awaitable[Any]:
        raise NotImplementedError

    async def read(self) -> None:
        """Calls ``received`` with everything that comes."""
        raise NotImplementedError

    def received(self, number: int, data: bytes) -> None:
        if number == UPLOAD:
            self._uploaded.put_nowait(data)
        else:
            self._waiting.pop(number).set_result(data)

    async def request(self, data: bytes) -> bytes:
        self._last += 1
        number = self._last
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = future
        await self.send(HEAD.pack(len(data), number), data)
        return await future

    async def messages(self, data: bytes, end: float) -> int:
        head = HEAD.pack(len(data), UPLOAD)
        while time.perf_counter() < end:
            for _ in range(TURN):
                await self.send(head, data)
        return await self._uploaded_bytes() // len(data)

    async def upload(self, chunks: Chunks) -> int:
        async for chunk in chunks():
            await self.send(HEAD.pack(len(chunk), UPLOAD), chunk)
        return await self._uploaded_bytes()

    async def _uploaded_bytes(self) -> int:
        await self.send(HEAD.pack(END, UPLOAD), b"")
        return int(await self._uploaded.get())


class AsyncioStreams:
    """``asyncio.open_connection`` and ``start_server`` with a length prefix."""

    name = "asyncio streams"

    def version(self) -> str:
        return f"CPython {platform.python_version()}"

    async def serve(self) -> str:
        self._server = await asyncio.start_server(self._connected, HOST, 0)
        return str(self._server.sockets[0].getsockname()[1])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uploads = Uploads()
        while True:
            length, number = HEAD.unpack(await reader.readexactly(HEAD.size))
            data = await uploads.handle(length, number, await reader.readexactly(length))
            if data is not None:
                writer.write(HEAD.pack(len(data), number) + data)
                await writer.drain()

    async def connect(self, address: str) -> Client:
        return _StreamsClient(*await asyncio.open_connection(HOST, int(address)))


class _StreamsClient(MessageClient):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        super().__init__()

    def send(self, head: bytes, data: bytes) -> Awaitable[Any]:
        if len(data) < COPY:
            self._writer.write(head + data)
        else:
            self._writer.write(head)
            self._writer.write(data)
        return self._writer.drain()

    async def read(self) -> None:
        while True:
            length, number = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            self.received(number, await self._reader.readexactly(length))


class Websockets:
    """``websockets`` without compression; a message is the number and the payload."""

    name = "websockets"

    def version(self) -> str:
        import websockets.asyncio.client  # noqa: F401

        return f"websockets {version('websockets')}"

    async def serve(self) -> str:
        from websockets.asyncio.server import serve

        self._server = await serve(self._connected, HOST, 0, compression=None)
        return str(next(iter(self._server.sockets)).getsockname()[1])

    async def _connected(self, socket: Any) -> None:
        uploads = Uploads()
        async for message in socket:
            length, number = HEAD.unpack_from(message)
            data = await uploads.handle(length, number, message[HEAD.size :])
            if data is not None:
                await socket.send(message[: HEAD.size] + data)

    async def connect(self, address: str) -> Client:
        from websockets.asyncio.client import connect

        url = f"ws://{HOST}:{address}"
        return _WebsocketsClient(await connect(url, compression=None, proxy=None))


class _WebsocketsClient(MessageClient):
    def __init__(self, socket: Any) -> None:
        self._socket = socket
        super().__init__()

    def send(self, head: bytes, data: bytes) -> Awaitable[Any]:
        sending: Awaitable[Any] = self._socket.send(head + data)
        return sending

    async def read(self) -> None:
        async for message in self._socket:
            _, number = HEAD.unpack_from(message)
            self.received(number, message[HEAD.size :])


class Zmq:
    """``zmq.asyncio``, DEALER and ROUTER over TCP."""

    name = "pyzmq"

    def version(self) -> str:
        import zmq

        return f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"

    async def serve(self) -> str:
        import zmq.asyncio

        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        port = self._socket.bind_to_random_port(f"tcp://{HOST}")
        self._serving = asyncio.create_task(self._serve())
        return str(port)

    async def _serve(self) -> None:
        uploads = Uploads()
        while True:
            who, head, data = await self._socket.recv_multipart()
            length, number = HEAD.unpack(head)
            answer = await uploads.handle(length, number, data)
            if answer is not None:
                await self._socket.send_multipart((who, head, answer))

    async def connect(self, address: str) -> Client:
        import zmq.asyncio

        socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        socket.connect(f"tcp://{HOST}:{address}")
        return _ZmqClient(socket)


class _ZmqClient(MessageClient):
    def __init__(self, socket: Any) -> None:
        self._socket = socket
        super().__init__()

    def send(self, head: bytes, data: bytes) -> Awaitable[Any]:
        sending: Awaitable[Any] = self._socket.send_multipart((head, data))
        return sending

    async def read(self) -> None:
        while True:
            head, data = await self._socket.recv_multipart()
            _, number = HEAD.unpack(head)
            self.received(number, data)


class Grpc:
    """``grpc.aio`` without protobuf: payloads are bytes as they are."""

    name = "grpc.aio"

    def version(self) -> str:
        import grpc.aio

        return f"grpcio {grpc.__version__}"

    async def serve(self) -> str:
        import grpc.aio

        async def unary(data: bytes, _: Any) -> bytes:
            return data

        async def upload(chunks: AsyncIterator[bytes], _: Any) -> bytes:
            uploaded = 0
            async for chunk in chunks:
                uploaded += len(chunk)
            return str(uploaded).encode()

        self._server = grpc.aio.server()
        handlers = {
            "echo": grpc.unary_unary_rpc_method_handler(unary),
            "upload": grpc.stream_unary_rpc_method_handler(upload),
        }
        handler = grpc.method_handlers_generic_handler("bench", handlers)
        self._server.add_generic_rpc_handlers((handler,))
        port = self._server.add_insecure_port(f"{HOST}:0")
        await self._server.start()
        return str(port)

    async def connect(self, address: str) -> Client:
        import grpc.aio

        return _GrpcClient(grpc.aio.insecure_channel(f"{HOST}:{address}"))


class _GrpcClient:
    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._upload = channel.stream_unary("/bench/upload")
        self.request = channel.unary_unary("/bench/echo")

    async def messages(self, data: bytes, end: float) -> int:
        async def chunks() -> AsyncIterator[bytes]:
            while time.perf_counter() < end:
                for _ in range(TURN):
                    yield data

        return await self.upload(chunks) // len(data)

    async def upload(self, chunks: Chunks) -> int:
        return int(await self._upload(chunks()))


class Roletalk:
    """This package, with an ``async def`` handler: a task for each request."""

    name = "roletalk"
    inline = False

    def version(self) -> str:
        import roletalk

        return f"roletalk {roletalk.__version__}"

    async def serve(self) -> str:
        import roletalk

        self._peer = roletalk.Peer("server")
        role = self._peer.role("bench")

        @role.on_request("echo")
        async def echo(ctx: roletalk.Context) -> Any:
            return ctx.data

        @role.on_request("echo inline", inline=True)
        def echo_inline(ctx: roletalk.Context) -> Any:
            return ctx.data

        received = 0

        @role.on_message("count")
        async def count(ctx: roletalk.Context) -> None:
            nonlocal received
            received += 1

        @role.on_message("count inline", inline=True)
        def count_inline(ctx: roletalk.Context) -> None:
            nonlocal received
            received += 1

        @role.on_request("counted")
        async def counted(ctx: roletalk.Context) -> int:
            nonlocal received
            count, received = received, 0
            return count

        uploads: asyncio.Queue[int] = asyncio.Queue()

        @role.on_readable("upload")
        async def upload(ctx: roletalk.Context) -> None:
            uploaded = 0
            async for chunk in ctx.accept():
                uploaded += len(chunk)
            uploads.put_nowait(uploaded)

        @role.on_request("uploaded")
        async def uploaded(ctx: roletalk.Context) -> int:
            return await uploads.get()

        return (await self._peer.listen(HOST, 0)).url

    async def connect(self, address: str) -> Client:
        import roletalk

        peer = roletalk.Peer("client")
        await peer.connect(address)
        destination = peer.destination("bench")
        await destination.wait_ready()
        return _RoletalkClient(destination, " inline" if self.inline else "")


class RoletalkInline(Roletalk):
    """This package, with a plain function that is called in the loop."""

    name = "roletalk, inline"
    inline = True


class _RoletalkClient:
    def __init__(self, destination: Any, kind: str) -> None:
        self._destination = destination
        self._event = "echo" + kind
        self._message = "count" + kind

    def request(self, data: bytes) -> Awaitable[Any]:
        answer: Awaitable[Any] = self._destination.request(self._event, data)
        return answer

    async def messages(self, data: bytes, end: float) -> int:
        while time.perf_counter() < end:
            for _ in range(TURN):
                await self._destination.send(self._message, data)
        # Answered behind the handlers of the messages: these are begun in order.
        return int(await self._destination.request("counted"))

    async def upload(self, chunks: Chunks) -> int:
        async with self._destination.writable("upload") as stream:
            async for chunk in chunks():
                await stream.write(chunk)
        return int(await self._destination.request("uploaded"))


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        AsyncioStreams(),
        Websockets(),
        Zmq(),
        Grpc(),
        RoletalkInline(),
        Roletalk(),
    )
}
"""The first is what the others are compared with."""
