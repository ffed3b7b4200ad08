"""Runs the processes of a sweep, several at a time, and assigns them cores and GPUs."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch

from ssod.errors import UserError
from ssod.sweep.records import FAILED_FILE, STDERR_FILE, failure_reason, read_run

LOCK_FILE = ".lock"
_PATIENCE = 10.0  # seconds to wait for processes that were asked to end


@dataclass(frozen=True)
class Job:
    """A run to be made.

    `command` starts the run, which writes into `folder`. `device`: its MODEL.DEVICE.
    """

    name: str
    seed: int
    folder: str
    command: Sequence[str]
    device: str = "cpu"

    @property
    def label(self) -> str:
        return f"{self.name} seed {self.seed}"


def training_command(config: str, opts: Sequence[str]) -> List[str]:
    return [sys.executable, "-m", "ssod.sweep.one", "--config-file", config, *opts]


def present_gpus() -> List[str]:
    """The values of CUDA_VISIBLE_DEVICES that select one GPU each."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def environment(slot: int, jobs: int, device: str, gpus: Sequence[str]) -> Dict[str, str]:
    """The environment variables that a process in `slot` (of `jobs`) gets in addition to the
    sweep's.

    Several processes at a time share the cores, unless OMP_NUM_THREADS is set. Slots take turns on
    the GPUs.
    """
    extra: Dict[str, str] = {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        extra["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
    if device == "cuda" and gpus:
        extra["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return extra


@contextmanager
def locked(output: str, patience: float = _PATIENCE) -> Iterator[int]:
    """Keeps a second sweep out of the folder.

    Runs inherit the lock, so that it lasts as long as any of them.

    Yields:
        The file descriptor that runs must inherit.
    """
    try:
        os.makedirs(output, exist_ok=True)
        descriptor = os.open(os.path.join(output, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"--output {output} cannot be written ({error.strerror}): choose another."
        ) from None
    try:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UserError(
                        f"A sweep is running in {output}: wait for it, or use --tables-only for what is there."
                    ) from None
                time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the sweep as Ctrl-C does: its processes first."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_jobs(
    jobs: Sequence[Job],
    slots: int,
    lock: int,
    on_start: Callable[[Job], None],
    on_end: Callable[[Job, Optional[str]], None],
    on_tick: Callable[[List[Job]], None],
) -> None:
    """Runs all jobs, `slots` at a time, and returns when none is left.

    A job that fails leaves `failed.txt` in its folder.

    Args:
        on_end: called with a job and the reason of its failure (None: it did not fail). on_tick:
            called with the running jobs, twice a second.

    Raises:
        KeyboardInterrupt: passed on, after the running processes have been ended.
    """
    waiting, active, gpus = deque(jobs), {}, present_gpus()  # type: ignore[var-annotated]
    try:
        while waiting or active:
            for slot in range(slots):
                if waiting and slot not in active:
                    job = waiting.popleft()
                    extra = environment(slot, slots, job.device, gpus)
                    active[slot] = (job, _start(job, extra, lock))
                    on_start(job)
            on_tick([job for job, _ in active.values()])
            time.sleep(0.5)
            for slot, (job, process) in list(active.items()):
                code = process.poll()
                if code is not None:
                    del active[slot]
                    on_end(job, _conclude(job, code))
    finally:
        _stop([process for _, process in active.values()])


def _start(job: Job, extra: Dict[str, str], lock: int) -> "subprocess.Popen[bytes]":
    folder = Path(job.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED_FILE).unlink(missing_ok=True)
        stderr = open(folder / STDERR_FILE, "wb")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another --output."
        ) from None
    with stderr:
        # The run's log is in log.txt. The run has its own session, so Ctrl-C reaches only the
        # sweep, which ends the run in an orderly way.
        return subprocess.Popen(
            job.command,
            env={**os.environ, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(lock,),
            start_new_session=True,
        )


def _conclude(job: Job, code: int) -> Optional[str]:
    if code == 0 and read_run(job.folder, job.seed).state == "done":
        return None
    reason = failure_reason(job.folder, code)
    (Path(job.folder) / FAILED_FILE).write_text(reason + "\n")
    return reason


def _stop(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        process.terminate()
    end = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
