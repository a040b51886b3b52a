"""Sends a file to whoever serves the role `files`, or serves it.

python file_transfer.py serve DIRECTORY
python file_transfer.py send FILE
"""

import asyncio
import sys
from pathlib import Path

import roletalk

ADDRESS = ("127.0.0.1", 9001)


async def serve(directory: Path) -> None:
    async with roletalk.Peer(name="files") as peer:

        @peer.role("files").on_readable("upload")
        async def upload(ctx: roletalk.Context) -> None:
            name = Path(str(ctx.data["name"])).name
            with open(directory / name, "wb") as file:
                async with ctx.accept() as stream:
                    async for chunk in stream:
                        file.write(chunk)
            print(f"received {name}", flush=True)

        listener = await peer.listen(*ADDRESS)
        print(f"serving `files` on {listener.url}", flush=True)
        await peer.serve()


async def send(path: Path) -> None:
    async with roletalk.Peer(name="sender") as peer:
        await peer.connect(f"ws://{ADDRESS[0]}:{ADDRESS[1]}")
        files = peer.destination("files")
        await files.wait_ready(timeout=5)
        with open(path, "rb") as file:
            async with files.writable("upload", {"name": path.name}) as stream:
                while chunk := file.read(1 << 20):
                    await stream.write(chunk)
        print("the other side has all of it")


if __name__ == "__main__":
    what, path = sys.argv[1], Path(sys.argv[2])
    asyncio.run(serve(path) if what == "serve" else send(path))
