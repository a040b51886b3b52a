"""Asks the role `echo`, wherever it is served. See echo_server.py.

python echo_client.py TEXT [ADDRESS...]    # default ws://127.0.0.1:9000
"""

import asyncio
import sys

import roletalk


async def main() -> None:
    text, *addresses = sys.argv[1:] or ["hello"]
    async with roletalk.Peer(name="echo client") as peer:
        for address in addresses or ["ws://127.0.0.1:9000"]:
            await peer.connect(address)
        echo = peer.destination("echo")
        await echo.wait_ready(timeout=5)
        print(await echo.request("say", text, timeout=5))


if __name__ == "__main__":
    asyncio.run(main())
