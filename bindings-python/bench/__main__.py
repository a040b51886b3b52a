"""Two processes for each system, side by side on loopback; the systems take turns within each round.
Prints Markdown tables: the ratios are medians over rounds.

    python bench [--quick] [--rounds N] [--only TEXT] [--loop asyncio|uvloop]

See ``systems.py`` for what is compared. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, Callable, NamedTuple

from scenarios import SCENARIOS
from systems import SYSTEMS

BASE = next(iter(SYSTEMS))
OURS = "roletalk"
CHILD = Path(__file__).with_name("child.py")

TARGETS: list[tuple[str, str, str, float]] = [
    ("64 in flight", "rate", "websockets", 2.5),
    ("256 in flight", "rate", "websockets", 2.5),
    ("64 in flight", "rate", BASE, 1.2),
    ("256 in flight", "rate", BASE, 1.2),
    ("1 in flight", "p50", BASE, 1.1),
    ("stream, MiB", "rate", BASE, 0.8),
]
"""Scenario, figure, who to compare with, bound: the least for rates, the most for times."""


ALONE = "1 in flight"
"""Its time depends on whether the two processes share a CPU, so that it is measured both ways, too."""
PINNED: dict[str, tuple[set[int], set[int]]] = {
    "both processes on one CPU": ({0}, {0}),
    "one CPU for each process": ({0}, {1}),
}


class Sample(NamedTuple):
    rate: float
    cpu: float
    """Microseconds of both processes for each request or MiB."""
    p50: float | None
    p99: float | None


class Child:
    def __init__(self, cpus: set[int] | None, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
        )
        self.first = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process has ended")
        return line.strip()

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Pair:
    """Server and client of a system."""

    def __init__(
        self, loop: str, system: str, pinned: tuple[set[int] | None, set[int] | None]
    ) -> None:
        self._server = Child(pinned[0], loop, system)
        try:
            self._client = Child(pinned[1], loop, system, self._server.first)
        except BaseException:
            self._server.close()
            raise

    def measure(self, scenario: str, seconds: float) -> Sample:
        before = self._cpu()
        done = self._client.ask(f"{seconds} {scenario}")
        cpu = (self._cpu() - before) / done["count"]
        return Sample(done["count"] / done["seconds"], cpu * 1e6, done["p50"], done["p99"])

    def _cpu(self) -> float:
        return float(self._server.ask("cpu")["cpu"] + self._client.ask("cpu")["cpu"])

    def close(self) -> None:
        self._server.close()
        self._client.close()


Samples = dict[str, list[Sample]]
"""By system, one for each round."""


def compare(
    loop: str,
    systems: list[str],
    scenarios: list[str],
    rounds: int,
    seconds: float,
    pinned: tuple[set[int] | None, set[int] | None] = (None, None),
) -> dict[str, Samples]:
    pairs: dict[str, Pair] = {}
    results: dict[str, Samples] = {}
    try:
        for system in systems:
            pairs[system] = Pair(loop, system, pinned)
        for scenario in scenarios:
            samples: Samples = {system: [] for system in systems}
            for pair in pairs.values():
                pair.measure(scenario, seconds / 4)
            for turn in range(rounds):
                for n in range(len(systems)):
                    system = systems[(n + turn) % len(systems)]
                    samples[system].append(pairs[system].measure(scenario, seconds))
            results[scenario] = samples
    finally:
        for pair in pairs.values():
            pair.close()
    return results


def ratio(samples: Samples, system: str, base: str, figure: Callable[[Sample], float]) -> float:
    pairs = zip(samples[system], samples[base])
    return median(figure(one) / figure(other) for one, other in pairs)


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n")
    print(f"| {' | '.join(head)} |")
    print("|---|" + "---:|" * (len(head) - 1))
    for row in rows:
        print(f"| {' | '.join(row)} |")


class Report:
    """The rows of all tables."""

    def __init__(self, systems: list[str]) -> None:
        self._systems = systems
        self._rates: list[list[str]] = []
        self._cpu: list[list[str]] = []
        self._verdicts: list[list[str]] = []

    def add(self, where: str, results: dict[str, Samples]) -> None:
        for scenario, samples in results.items():
            name = f"{where}, {scenario}"
            self._rates.append(self._row(f"{name}: per second", samples, lambda one: one.rate, 0))
            if samples[BASE][0].p50 is not None:
                p50 = self._row(f"{name}: p50, µs", samples, lambda one: (one.p50 or 0) * 1e6, 1)
                p99 = self._row(f"{name}: p99, µs", samples, lambda one: (one.p99 or 0) * 1e6, 1)
                self._rates += [p50, p99]
            self._cpu.append(self._row(name, samples, lambda one: one.cpu, 1))
        for scenario, figure, base, bound in TARGETS:
            samples = results.get(scenario, {})
            if base not in samples or OURS not in samples:
                continue
            found = ratio(samples, OURS, base, attrgetter(figure))
            least = figure == "rate"
            verdict = "reached" if (found >= bound) == least else "missed"
            name = f"{where}, {scenario}: {figure} / {base}"
            bound_text = f"{'≥' if least else '≤'} {bound}"
            self._verdicts.append([name, bound_text, f"{found:.2f}", verdict])

    def _row(
        self, name: str, samples: Samples, figure: Callable[[Sample], float], digits: int
    ) -> list[str]:
        cells = [name]
        for system in self._systems:
            text = f"{median(map(figure, samples[system])):,.{digits}f}"
            if system != BASE:
                text += f" (×{ratio(samples, system, BASE, figure):.2f})"
            cells.append(text)
        return cells

    def print(self) -> None:
        table("Requests of 32 B, streams in chunks of 64 KiB", ["", *self._systems], self._rates)
        table("CPU µs for each, both processes", ["", *self._systems], self._cpu)
        table("Targets", ["", "bound", "measured", "verdict"], self._verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="scenarios with this in their name"
    )
    parser.add_argument("--loop", choices=["asyncio", "uvloop"])
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = 0.4 if options.quick else 1.0

    systems, versions = [], []
    for name, system in SYSTEMS.items():
        try:
            found = system.version()
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        systems.append(name)
        if found not in versions:
            versions.append(found)
    loops = [options.loop] if options.loop else ["asyncio", "uvloop"]
    if "uvloop" in loops and importlib.util.find_spec("uvloop") is None:
        print("uvloop is left out: it is not installed")
        loops.remove("uvloop")
    scenarios = [name for name in SCENARIOS if options.only in name]
    print(f"{', '.join(versions)}; {rounds} rounds of {seconds} s, medians.")
    report = Report(systems)
    for loop in loops:
        report.add(loop, compare(loop, systems, scenarios, rounds, seconds))
        if (
            ALONE in scenarios
            and hasattr(os, "sched_setaffinity")
            and len(os.sched_getaffinity(0)) > 1
        ):
            for where, pinned in PINNED.items():
                results = compare(loop, systems, [ALONE], rounds, seconds, pinned)
                report.add(f"{loop}, {where}", results)
    report.print()


main()
