"""Runs tests under valgrind's memcheck: ``memcheck.py MODULE TESTS...``, where MODULE is the extension
module with debug information.

Fails when a test fails, on every invalid access or free (one of the interpreter's own may be what a
missing reference of the module has led to), and on memory that is definitely lost and was allocated for
the module: with ``PYTHONMALLOC=malloc``, a reference too many to a bytes, str, int or float object is
that, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
MODULE = "_engine.abi3.so"

ONCE = "pyo3::pyclass::create_type_object"
"""PyO3 leaks what the slots of each class point to, once."""


def main(module: str, *tests: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / "roletalk"
        report = Path(directory) / "report.xml"
        shutil.copytree(
            HERE.parent / "python" / "roletalk",
            package,
            ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        )
        shutil.copy(module, package / MODULE)
        command = [
            "valgrind",
            # It runs one thread at a time: a busy one must not keep the engine's from their turn.
            "--fair-sched=try",
            # CPython's integers look at memory that nobody has written, and mean it.
            "--undef-value-errors=no",
            "--leak-check=full",
            "--show-leak-kinds=definite",
            "--num-callers=60",
            "--xml=yes",
            f"--xml-file={report}",
            sys.executable,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:timeout"),
            *tests,
        ]
        environment = {**os.environ, "PYTHONMALLOC": "malloc", "PYTHONPATH": directory}
        status = subprocess.run(command, env=environment, cwd=HERE.parent, check=False).returncode
        errors = [
            error for error in ElementTree.parse(report).getroot().iter("error") if _counts(error)
        ]
        for error in errors:
            print(_text(error))
    print(f"memcheck: {len(errors)} errors")
    return status or len(errors) > 0


def _counts(error: ElementTree.Element) -> bool:
    if not error.findtext("kind", "").startswith("Leak"):
        return True
    stack = _stack(error)
    ours = any(frame.endswith(MODULE) for frame in stack)
    return ours and not any(ONCE in frame for frame in stack)


def _stack(error: ElementTree.Element) -> list[str]:
    """The innermost frame first. Further stacks tell where the memory was allocated and freed."""
    return [
        f"{frame.findtext('fn', '?')} {frame.findtext('file', '')}:{frame.findtext('line', '')} "
        f"{frame.findtext('obj', '')}"
        for frame in error.iter("frame")
    ]


def _text(error: ElementTree.Element) -> str:
    what = error.findtext("what") or error.findtext("xwhat/text") or ""
    return "\n    ".join([f"{error.findtext('kind')}: {what}", *_stack(error)])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
