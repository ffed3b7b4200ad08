"""Runs one command as several jobs, each with its `--share`, on Slurm or as processes of this
machine.

Jobs do not talk to each other: each writes shard files, which are complete or not there. So a job
that fails, runs out of time or loses its machine is started again and does only what is missing.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Sequence

from ssod.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Where jobs run.

    Attributes:
        executor: "slurm", or "local" (processes of this machine, all at once).
        jobs: how many. retries: how often a failed job is started again.
        folder: of submitit's logs. parameters: of submitit's executor, such as slurm_partition.
    """

    executor: str
    jobs: int
    retries: int
    folder: str
    parameters: Dict[str, Any]


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """--share for one job; --cluster and what belongs to it for all of them."""
    group = parser.add_argument_group("many machines")
    add = group.add_argument
    add(
        "--share",
        default="0/1",
        metavar="JOB/JOBS",
        help="only this job's part of the images; the command without it goes on when all are done",
    )
    add(
        "--cluster", choices=("slurm", "local"), help="start --jobs jobs, wait for them, then go on"
    )
    add("--jobs", type=int, default=8, metavar="N", help="of --cluster (default: %(default)s)")
    add("--retries", type=int, default=2, help="of a job that fails (default: %(default)s)")
    add(
        "--cluster-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="of submitit's executor, as in timeout_min=600 slurm_partition=gpu gpus_per_node=1",
    )


def cluster_from(args: argparse.Namespace, folder: str) -> Cluster:
    """From the arguments of `add_cluster_arguments`.

    Raises:
        UserError: a number is out of range, or an option is no KEY=VALUE.
    """
    for name, low in (("jobs", 1), ("retries", 0)):
        if getattr(args, name) < low:
            raise UserError(f"--{name} {getattr(args, name)}: use {low} or more.")
    parameters: Dict[str, Any] = {}
    for text in args.cluster_options:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"--cluster-options {text}: write KEY=VALUE.")
        parameters[key] = int(value) if value.isdecimal() else value
    return Cluster(args.cluster, args.jobs, args.retries, folder, parameters)


def without_cluster_arguments(argv: Sequence[str]) -> List[str]:
    """The command line of a single job: what was typed, less the options of `--cluster`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--cluster", "--jobs", "--retries", "--share"):
        parser.add_argument(name)
    parser.add_argument("--cluster-options", nargs="+")
    return parser.parse_known_args(list(argv))[1]


def run_share(module: str, argv: Sequence[str], share: str) -> str:
    """What a job does: `python -m module ARGV --share SHARE`, in a process of its own.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    command = [sys.executable, "-m", module, "--share", share, *argv]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])
    return share


def run_jobs(
    cluster: Cluster,
    module: str,
    argv: Sequence[str],
    first_alone: bool = False,
    job: Callable[[str, Sequence[str], str], str] = run_share,
) -> None:
    """Starts all jobs and waits for them; a failed one is started again.

    Args:
        module: of the command, such as "ssod.tools.pseudo_label". argv: its arguments, without
            those of the cluster.
        first_alone: the first job is done before the others start, because they need what it makes.

    Raises:
        UserError: submitit is missing, or a job failed more than `cluster.retries` times.
    """
    executor = _executor(cluster)
    shares = [f"{index}/{cluster.jobs}" for index in range(cluster.jobs)]
    if first_alone:
        _run(executor, cluster, shares[:1], lambda share: (job, module, list(argv), share))
        shares = shares[1:]
    _run(executor, cluster, shares, lambda share: (job, module, list(argv), share))


def _run(
    executor: Any, cluster: Cluster, shares: Sequence[str], call: Callable[[str], Any]
) -> None:
    waiting = list(shares)
    reasons: Dict[str, str] = {}
    for attempt in range(cluster.retries + 1):
        started = [(share, executor.submit(*call(share))) for share in waiting]
        waiting = []
        for share, running in started:
            error = _outcome(running)
            if error:
                waiting.append(share)
                reasons[share] = error
                again = "it is started again" if attempt < cluster.retries else "it is given up"
                logger.warning(f"Job {share} failed ({error}); {again}. Log: {_log(running)}")
        if not waiting:
            return
    share = waiting[0]
    raise UserError(
        f"{len(waiting)} of {cluster.jobs} jobs failed {cluster.retries + 1} times, such as {share} ({reasons[share]}): "
        f"see the logs in {cluster.folder}; the same command does what is missing."
    )


def _outcome(running: Any) -> str:
    """Why a job failed, in one line; empty if it did not."""
    while not running.done():
        time.sleep(0.2)
    try:
        running.result()
    except Exception as error:  # submitit's own kinds, and whatever Slurm says
        # The message holds the job's whole trace; the last line that names an error says what it
        # was.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
        return (named or lines or [type(error).__name__])[-1 if named else 0]
    return ""


def _log(running: Any) -> str:
    return str(getattr(getattr(running, "paths", None), "stderr", "none"))


def _executor(cluster: Cluster) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--cluster needs submitit: pip install 'ssod[cluster]'.") from None
    os.makedirs(cluster.folder, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=cluster.folder, cluster=cluster.executor)
        executor.update_parameters(name="ssod", **cluster.parameters)
    except (NameError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--cluster {cluster.executor}: {' '.join(str(error).split())}") from None
    return executor
