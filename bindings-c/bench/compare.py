#!/usr/bin/env python3
"""The C library beside the Rust crate: compare.py RUST_BENCH C_BENCH [ROUNDS]

Both sides of each measurement are processes of their own on loopback; the systems take turns in each
round. Prints medians, and in brackets the median of the ratios to Rust in the same round. The Rust side
is the program of `cargo bench -p roletalk --bench field`, on the current-thread runtime.
"""

import statistics
import subprocess
import sys

MEASURES = [
    ("requests 32 B, 1 in flight", "requests 32 1 300000"),
    ("requests 32 B, 16 in flight", "requests 32 16 300000"),
    ("requests 32 B, 64 in flight", "requests 32 64 300000"),
    ("requests 32 B, 256 in flight", "requests 32 256 300000"),
    ("requests 4 KiB, 64 in flight", "requests 4096 64 300000"),
    ("messages 32 B", "messages 32 300000"),
    ("stream (bytes)", f"stream {512 << 20}"),
]


class Pair:
    """A server and its client, which does what it is told line by line."""

    def __init__(self, server, client):
        self.server = self.start(server)
        address = self.server.stdout.readline().strip()
        self.client = self.start([*client, address])

    @staticmethod
    def start(arguments):
        pipe = subprocess.PIPE
        return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True)

    def rate(self, command):
        self.client.stdin.write(command + "\n")
        self.client.stdin.flush()
        count, nanoseconds, *_ = self.client.stdout.readline().split()
        return int(count) / (int(nanoseconds) / 1e9)

    def close(self):
        for process in (self.client, self.server):
            process.stdin.close()
            process.wait()


def main():
    rust, c = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    systems = {
        "Rust": ([rust, "--as-server", "roletalk", "1"], [rust, "--as-client", "roletalk", "1"]),
        "C, inline": ([c, "server", "inline"], [c, "client", "inline"]),
        "C, thread": ([c, "server", "thread"], [c, "client", "thread"]),
    }
    rates = {(name, system): [] for name, _ in MEASURES for system in systems}
    for round_ in range(rounds):
        pairs = {system: Pair(*commands) for system, commands in systems.items()}
        for pair in pairs.values():
            pair.rate("requests 32 64 30000")
        order = list(systems)
        order = order[round_ % len(order) :] + order[: round_ % len(order)]
        for name, command in MEASURES:
            for system in order:
                rates[name, system].append(pairs[system].rate(command))
        for pair in pairs.values():
            pair.close()
    print("| per second | " + " | ".join(systems) + " |")
    print("| --- |" + " ---: |" * len(systems))
    for name, _ in MEASURES:
        base = rates[name, "Rust"]
        cells = []
        for system in systems:
            ratios = [own / rust for own, rust in zip(rates[name, system], base)]
            median = statistics.median(rates[name, system])
            cells.append(f"{median:,.0f} (×{statistics.median(ratios):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
