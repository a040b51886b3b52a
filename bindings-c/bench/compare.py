#!/usr/bin/env python3
"""The C library beside the Rust crate: compare.py [--rounds N] [--pin] RUST_BENCH C_BENCH [FILTER...]

Both sides of each measurement are processes of their own on loopback; the systems take turns in each
round. Prints medians, and in brackets the median of the ratios to Rust in the same round; then the CPU
time of both processes, which other work on the machine disturbs less. The Rust side is the program of
`cargo bench -p roletalk --bench field`: one current-thread runtime that does everything, and beside it a
multi-thread one with two workers. `--pin` gives all clients CPU 0 and all servers CPU 1. A FILTER is a
part of the names of the measurements or of the systems (Rust always takes part).
"""

import argparse
import os
import statistics
import subprocess

MEASURES = [
    ("requests 32 B, 1 in flight", "requests 32 1 1 300000"),
    ("requests 32 B, 16 in flight", "requests 32 16 1 300000"),
    ("requests 32 B, 64 in flight", "requests 32 64 1 300000"),
    ("requests 32 B, 256 in flight", "requests 32 256 1 300000"),
    ("requests 4 KiB, 64 in flight", "requests 4096 64 1 300000"),
    ("messages 32 B", "messages 32 300000"),
    ("stream (bytes)", f"stream {512 << 20}"),
]
BASE = "Rust"


def cpu_time(process):
    """Nanoseconds that all threads of a process have run, without those that have ended."""
    total = 0
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        try:
            with open(f"/proc/{process.pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
        except FileNotFoundError:
            pass
    return total


class Pair:
    """A server and its client, which does what it is told line by line."""

    def __init__(self, server, client, pin):
        self.server = self.start(server, {1} if pin else None)
        address = self.server.stdout.readline().strip()
        self.client = self.start([*client, address], {0} if pin else None)

    @staticmethod
    def start(arguments, cpus):
        pipe = subprocess.PIPE
        bind = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True, preexec_fn=bind)

    def measure(self, command):
        """How many per second, and the CPU time of each in nanoseconds: client's and server's."""
        before = [cpu_time(process) for process in (self.client, self.server)]
        self.client.stdin.write(command + "\n")
        self.client.stdin.flush()
        count, nanoseconds, *_ = map(int, self.client.stdout.readline().split())
        after = [cpu_time(process) for process in (self.client, self.server)]
        return count * 1e9 / nanoseconds, *((b - a) / count for a, b in zip(before, after))

    def close(self):
        for process in (self.client, self.server):
            process.stdin.close()
            process.wait()


def table(title, names, systems, cell):
    print(f"| {title} | " + " | ".join(systems) + " |")
    print("| --- |" + " ---: |" * len(systems))
    for name in names:
        print(f"| {name} | " + " | ".join(cell(name, system) for system in systems) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rust")
    parser.add_argument("c")
    parser.add_argument("filter", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pin", action="store_true")
    options = parser.parse_intermixed_args()

    def wanted(names):
        names = list(names)
        chosen = [name for name in names if any(part in name for part in options.filter)]
        return chosen or names

    def rust(threads):
        return [options.rust, "--as-server", "roletalk", threads], [
            options.rust,
            "--as-client",
            "roletalk",
            threads,
        ]

    def c(style):
        return [options.c, "server", style], [options.c, "client", style]

    systems = {
        BASE: rust("1"),
        "Rust, 2 threads": rust("2"),
        "C, inline": c("inline"),
        "C, blocking": c("blocking"),
        "C, thread": c("thread"),
    }
    chosen = wanted(system for system in systems if system != BASE)
    systems = {name: it for name, it in systems.items() if name == BASE or name in chosen}
    measures = dict(MEASURES)
    measures = {name: measures[name] for name in wanted(measures)}
    samples = {(name, system): [] for name in measures for system in systems}
    for round_ in range(options.rounds):
        pairs = {system: Pair(*commands, options.pin) for system, commands in systems.items()}
        for pair in pairs.values():
            pair.measure("requests 32 64 1 30000")
        order = list(systems)
        order = order[round_ % len(order) :] + order[: round_ % len(order)]
        for name, command in measures.items():
            for system in order:
                samples[name, system].append(pairs[system].measure(command))
        for pair in pairs.values():
            pair.close()

    def ratio(name, system, value):
        pairs = zip(samples[name, system], samples[name, BASE])
        return statistics.median(value(*own) / value(*base) for own, base in pairs)

    def rate(name, system):
        median = statistics.median(rate for rate, _, _ in samples[name, system])
        return f"{median:,.0f} (×{ratio(name, system, lambda rate, *_: rate):.2f})"

    def cpu(name, system):
        client, server = (
            statistics.median(sample[at] for sample in samples[name, system]) for at in (1, 2)
        )
        both = ratio(name, system, lambda _, client, server: client + server)
        digits = 3 if "bytes" in name else 0
        return f"{client:,.{digits}f} + {server:,.{digits}f} (×{both:.2f})"

    table("per second", measures, systems, rate)
    print()
    table("CPU ns each, client + server", measures, systems, cpu)


if __name__ == "__main__":
    main()
