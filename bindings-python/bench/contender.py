"""One contender: a server that echoes, or a client that measures. See __main__.py.

python contender.py NAME LOOP server           # prints where it listens
python contender.py NAME LOOP client ADDRESS   # reads what to measure, prints the outcome
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from typing import Any, Awaitable, Callable, Dict, List, Optional

Request = Callable[[str], Awaitable[str]]
Bulk = Callable[[float], Awaitable[float]]

HEAD = struct.Struct("!II")
PIECE = b"x" * 65_536
BULK = 1 << 31
"""As a correlation: the rest of the connection is bulk data."""


class Contender:
    """What each one has to bring."""

    async def serve(self) -> Any:
        """Listens; returns what `connect` needs."""
        raise NotImplementedError

    async def connect(self, address: Any) -> None:
        raise NotImplementedError

    def request(self, text: str) -> Awaitable[str]:
        raise NotImplementedError

    async def bulk(self, seconds: float) -> float:
        """Writes a stream for that long; returns bytes per second, as the reader has them."""
        raise NotImplementedError


class Roletalk(Contender):
    async def serve(self) -> Any:
        import roletalk

        self.peer = roletalk.Peer()
        role = self.peer.role("echo")

        @role.on_request("say")
        async def say(ctx: roletalk.Context) -> Any:
            return ctx.data

        @role.on_readable("upload")
        async def upload(ctx: roletalk.Context) -> None:
            async with ctx.accept() as stream:
                async for _ in stream:
                    pass

        return (await self.peer.listen("127.0.0.1")).url

    async def connect(self, address: Any) -> None:
        import roletalk

        self.peer = roletalk.Peer()
        await self.peer.connect(address)
        self.echo = self.peer.destination("echo")
        await self.echo.wait_ready(5)

    def request(self, text: str) -> Awaitable[str]:
        return self.echo.request("say", text)

    async def bulk(self, seconds: float) -> float:
        clock = time.perf_counter
        begun, written = clock(), 0
        async with self.echo.writable("upload") as stream:
            while clock() - begun < seconds:
                await stream.write(PIECE)
                written += len(PIECE)
        return written / (clock() - begun)


class Streams(Contender):
    async def serve(self) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                size, corr = HEAD.unpack(await reader.readexactly(HEAD.size))
                if corr == BULK:
                    while await reader.read(65_536):
                        pass
                    writer.close()
                    return
                text = (await reader.readexactly(size)).decode()
                data = text.encode()
                writer.write(HEAD.pack(len(data), corr) + data)
                await writer.drain()

        self.server = await asyncio.start_server(serve, "127.0.0.1")
        return self.server.sockets[0].getsockname()[1]

    async def connect(self, address: Any) -> None:
        self.address = int(address)
        self.loop = asyncio.get_running_loop()
        self.waiting: Dict[int, asyncio.Future[str]] = {}
        self.corr = 0
        reader, self.writer = await asyncio.open_connection("127.0.0.1", self.address)
        self.task = asyncio.ensure_future(self.read(reader))

    async def read(self, reader: asyncio.StreamReader) -> None:
        while True:
            size, corr = HEAD.unpack(await reader.readexactly(HEAD.size))
            text = (await reader.readexactly(size)).decode()
            self.waiting.pop(corr).set_result(text)

    async def request(self, text: str) -> str:
        self.corr += 1
        future = self.waiting[self.corr] = self.loop.create_future()
        data = text.encode()
        self.writer.write(HEAD.pack(len(data), self.corr) + data)
        await self.writer.drain()
        return await future

    async def bulk(self, seconds: float) -> float:
        clock = time.perf_counter
        reader, writer = await asyncio.open_connection("127.0.0.1", self.address)
        begun, written = clock(), 0
        writer.write(HEAD.pack(0, BULK))
        while clock() - begun < seconds:
            writer.write(PIECE)
            await writer.drain()
            written += len(PIECE)
        writer.write_eof()
        await reader.read()
        writer.close()
        return written / (clock() - begun)


class Websockets(Contender):
    async def serve(self) -> Any:
        from websockets.asyncio.server import ServerConnection, serve

        async def echo(connection: ServerConnection) -> None:
            async for message in connection:
                assert isinstance(message, bytes)
                text = message[4:].decode()
                await connection.send(message[:4] + text.encode())

        self.server = await serve(echo, "127.0.0.1", 0, compression=None)
        return next(iter(self.server.sockets)).getsockname()[1]

    async def connect(self, address: Any) -> None:
        from websockets.asyncio.client import connect

        self.loop = asyncio.get_running_loop()
        self.waiting: Dict[bytes, asyncio.Future[str]] = {}
        self.corr = 0
        url = f"ws://127.0.0.1:{address}"
        self.connection = await connect(url, compression=None, proxy=None)
        self.task = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        async for message in self.connection:
            assert isinstance(message, bytes)
            self.waiting.pop(message[:4]).set_result(message[4:].decode())

    async def request(self, text: str) -> str:
        self.corr += 1
        corr = self.corr.to_bytes(4, "big")
        future = self.waiting[corr] = self.loop.create_future()
        await self.connection.send(corr + text.encode())
        return await future


class Pyzmq(Contender):
    async def serve(self) -> Any:
        import zmq.asyncio

        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.task = asyncio.ensure_future(self.echo())
        return port

    async def echo(self) -> None:
        while True:
            who, corr, data = await self.socket.recv_multipart()
            await self.socket.send_multipart([who, corr, data.decode().encode()])

    async def connect(self, address: Any) -> None:
        import zmq.asyncio

        self.loop = asyncio.get_running_loop()
        self.waiting: Dict[bytes, asyncio.Future[str]] = {}
        self.corr = 0
        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(f"tcp://127.0.0.1:{address}")
        self.task = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        while True:
            corr, data = await self.socket.recv_multipart()
            self.waiting.pop(corr).set_result(data.decode())

    async def request(self, text: str) -> str:
        self.corr += 1
        corr = self.corr.to_bytes(4, "big")
        future = self.waiting[corr] = self.loop.create_future()
        await self.socket.send_multipart([corr, text.encode()])
        return await future


class Grpc(Contender):
    async def serve(self) -> Any:
        import grpc.aio

        async def echo(request: bytes, context: Any) -> bytes:
            return request.decode().encode()

        self.server = grpc.aio.server()
        handlers = {"Say": grpc.unary_unary_rpc_method_handler(echo)}
        handler = grpc.method_handlers_generic_handler("Echo", handlers)
        self.server.add_generic_rpc_handlers((handler,))
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return port

    async def connect(self, address: Any) -> None:
        import grpc.aio

        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{address}")
        self.call = self.channel.unary_unary("/Echo/Say")

    async def request(self, text: str) -> str:
        answer: bytes = await self.call(text.encode())
        return answer.decode()


CONTENDERS: Dict[str, Callable[[], Contender]] = {
    "roletalk": Roletalk,
    "streams": Streams,
    "websockets": Websockets,
    "pyzmq": Pyzmq,
    "grpc": Grpc,
}


async def requests(request: Request, width: int, seconds: float) -> Dict[str, Optional[float]]:
    text, clock = "x" * 32, time.perf_counter
    took: List[float] = []

    async def work(end: float) -> int:
        count = 0
        while clock() < end:
            if await request(text) != text:
                raise SystemExit("a wrong answer")
            count += 1
        return count

    async def work_alone(end: float) -> int:
        while (begun := clock()) < end:
            await request(text)
            took.append(clock() - begun)
        return len(took)

    await asyncio.gather(*(work(clock() + seconds / 10) for _ in range(width)))
    begun = clock()
    worker = work_alone if width == 1 else work
    counts = await asyncio.gather(*(worker(begun + seconds) for _ in range(width)))
    rate = sum(counts) / (clock() - begun)
    took.sort()
    return {"rate": rate, "p50": took[len(took) // 2] * 1e6 if took else None}


def tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def main(name: str, role: str, *address: str) -> None:
    contender = CONTENDERS[name]()
    if role == "server":
        tell(await contender.serve())
        await asyncio.Event().wait()
    await contender.connect(*address)
    tell("ready")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = json.loads(line)
        if task["what"] == "requests":
            tell(await requests(contender.request, task["width"], task["seconds"]))
        else:
            tell({"rate": await contender.bulk(task["seconds"]) / 1e6})


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(main(sys.argv[1], *sys.argv[3:]))
    else:
        asyncio.run(main(sys.argv[1], *sys.argv[3:]))
