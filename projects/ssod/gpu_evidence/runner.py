"""Runs the parts one after another within a time limit, and writes the page anew after each."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from ssod.gpu_evidence.page import markdown
from ssod.utils.atomic import write_atomically

_GRACE = 10.0  # seconds between asking a part to end and ending it


@dataclass(frozen=True)
class Part:
    """A command and its share of the time.

    Attributes:
        name: of its files in the output folder. seconds: its time limit.
        file: JSON that it writes, in the output folder; empty for none.
    """

    name: str
    command: Sequence[str]
    seconds: float
    file: str = ""


@dataclass
class Outcome:
    """The end of a part: "ok", "failed (exit status 1)", "ended after 60 s" or "left out:
    ...".
    """

    name: str
    state: str
    seconds: float = 0.0
    tail: List[str] = field(default_factory=list)
    found: Any = None


def test_command(device: str) -> List[str]:
    """pytest on the tests that need a GPU, in several processes if pytest-xdist is installed."""
    command = [sys.executable, "-m", "pytest", "tests/test_cuda.py", "-q", "-rfE", "--no-header"]
    if device == "cuda" and importlib.util.find_spec("xdist"):
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    return command


def run_part(part: Part, output: str) -> Outcome:
    """Runs a part; its log goes to `<output>/<name>.log`. Never raises because of the part."""
    log = os.path.join(output, f"{part.name}.log")
    start = time.monotonic()
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            part.command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            code = process.wait(part.seconds)
            state = "ok" if code == 0 else f"failed (exit status {code})"
        except subprocess.TimeoutExpired:
            _end(process)
            state = f"ended after {part.seconds:.0f} s"
        except BaseException:
            _end(process)
            raise
    found = None
    path = Path(output, part.file)
    if part.file and path.is_file():
        found = json.loads(path.read_text())
    lines = Path(log).read_text(errors="replace").splitlines()
    return Outcome(part.name, state, time.monotonic() - start, lines[-30:], found)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the part and all that it started to end, then ends them."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def run_parts(parts: Sequence[Part], output: str, minutes: float, command: str) -> List[Outcome]:
    """Runs all parts, also after one that fails. Writes evidence.json and evidence.md after each.

    Args:
        minutes: no part runs past this limit. Parts without any time left are left out.
        command: what was typed, for the page.
    """
    end = time.monotonic() + 60 * minutes
    outcomes: List[Outcome] = []
    about = machine(command)
    for part in parts:
        left = end - time.monotonic()
        if left < 5:
            outcome = Outcome(part.name, "left out: no time was left")
        else:
            limited = Part(part.name, part.command, min(part.seconds, left), part.file)
            outcome = run_part(limited, output)
        outcomes.append(outcome)
        print(f"{part.name}: {outcome.state} ({outcome.seconds:.0f} s)", flush=True)
        value: Dict[str, Any] = {"machine": about, "parts": [vars(found) for found in outcomes]}
        for name, text in (("json", json.dumps(value, indent=1)), ("md", markdown(value))):
            data = text.encode()
            write_atomically(
                os.path.join(output, f"evidence.{name}"),
                lambda file, data=data: file.write(data),  # type: ignore[misc]
            )
    return outcomes


def machine(command: str) -> Dict[str, Optional[str]]:
    """The machine and versions that the numbers depend on."""
    gpu = torch.cuda.is_available()
    return {
        "command": command,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if gpu else None,
    }
