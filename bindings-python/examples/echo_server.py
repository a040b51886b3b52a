"""Serves the role `echo`: whatever is asked comes back.

    python echo_server.py                      # on 127.0.0.1:9000
    python echo_client.py "hello there"        # in another terminal

It ends on Ctrl-C or SIGTERM, when it has answered what it was asked before.
"""

import asyncio
import sys

import roletalk


async def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    async with roletalk.Peer(name="echo server") as peer:
        echo = peer.role("echo")

        @echo.on_request("say")
        async def say(ctx: roletalk.Context) -> object:
            print(f"{ctx.unit.name} says {ctx.data!r}")
            return ctx.data

        listener = await peer.listen("127.0.0.1", port)
        print(f"serving `echo` on {listener.url}", flush=True)
        await peer.serve()


if __name__ == "__main__":
    asyncio.run(main())
