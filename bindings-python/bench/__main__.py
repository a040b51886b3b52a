"""Measures the package beside what else there is for asyncio, in one run.

    python bench [--quick] [--only NAME ...]

For each contender a server runs in a process of its own and echoes 32-byte texts over loopback TCP.
Rounds of all contenders alternate; the table has medians. `streams` is asyncio's own streams with a
length prefix: what one would write by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
CONTENDERS = ["roletalk", "streams", "websockets", "pyzmq", "grpc"]
BULK = ["roletalk", "streams"]
WIDTHS = [1, 64, 256]


class Child:
    """A contender's server or client."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "contender.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if os.environ.get("BENCH_QUIET", "1") == "1" else None,
            text=True,
        )
        self.greeting = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a contender has died; BENCH_QUIET=0 shows why")
        return json.loads(line)

    def ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def measure(loop: str, names: List[str], rounds: int, seconds: float) -> Dict[str, Dict[str, float]]:
    pairs = {}
    for name in names:
        server = Child(name, loop, "server")
        pairs[name] = (server, Child(name, loop, "client", str(server.greeting)))
    samples: Dict[str, Dict[str, List[float]]] = {name: {} for name in names}
    for _ in range(rounds):
        for name, (_, client) in pairs.items():
            for width in WIDTHS:
                outcome = client.ask(what="requests", width=width, seconds=seconds)
                samples[name].setdefault(f"requests/s, {width} in flight", []).append(outcome["rate"])
                if width == 1:
                    samples[name].setdefault("p50 in us, 1 in flight", []).append(outcome["p50"])
            if name in BULK:
                outcome = client.ask(what="bulk", seconds=seconds)
                samples[name].setdefault("bulk, MB/s", []).append(outcome["rate"])
    for server, client in pairs.values():
        client.end()
        server.end()
    return {
        name: {what: statistics.median(values) for what, values in sample.items()}
        for name, sample in samples.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fraction of the time")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    options = parser.parse_args()
    rounds, seconds = (2, 0.3) if options.quick else (5, 1.0)
    loops = ["asyncio"]
    try:
        import uvloop  # noqa: F401

        loops.append("uvloop")
    except ImportError:
        pass
    for loop in loops:
        table = measure(loop, options.only, rounds, seconds)
        print(f"\nPython {sys.version.split()[0]}, {loop}\n")
        rows = list(dict.fromkeys(row for values in table.values() for row in values))
        print("| | " + " | ".join(table) + " |")
        print("|---|" + "---:|" * len(table))
        for row in rows:
            cells = [f"{values[row]:,.0f}" if row in values else "" for values in table.values()]
            print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
