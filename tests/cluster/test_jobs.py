"""Jobs of a cluster, as processes of this machine: retries, giving up, the first one alone, one
line for what is wrong.
"""

from __future__ import annotations

import argparse
import builtins
from pathlib import Path
from typing import Any, List, Sequence

import pytest

from ssod.cluster.jobs import (
    Cluster,
    add_cluster_arguments,
    cluster_from,
    run_jobs,
    run_share,
    without_cluster_arguments,
)
from ssod.errors import UserError

submitit = pytest.importorskip("submitit")


def local(tmp_path: Path, jobs: int, retries: int) -> Cluster:
    return Cluster("local", jobs, retries, str(tmp_path / "jobs"), {"timeout_min": 2})


def test_a_job_that_dies_is_started_again(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def job(module: str, argv: Sequence[str], share: str) -> str:
        import os

        mark = os.path.join(folder, share.replace("/", "_of_"))
        if share == "1/3" and not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(9)  # as if its machine had gone
        with open(mark, "a") as file:
            file.write(f"{module} {argv}")
        return share

    run_jobs(local(tmp_path, 3, 1), "a.module", ["--x"], job=job)
    for index in range(3):
        assert (tmp_path / f"{index}_of_3").read_text() == "a.module ['--x']"


def test_a_job_that_always_fails_is_given_up(tmp_path: Path) -> None:
    def job(module: str, argv: Sequence[str], share: str) -> str:
        if share == "0/2":
            raise RuntimeError("disk is full")
        return share

    with pytest.raises(UserError, match=r"1 of 2 jobs failed 2 times, such as 0/2 .*disk is full"):
        run_jobs(local(tmp_path, 2, 1), "m", [], job=job)


def test_the_first_job_is_done_before_the_others_start(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def job(module: str, argv: Sequence[str], share: str) -> str:
        import os

        made = os.path.join(folder, "classifier")
        if share == "0/3":
            open(made, "w").close()
        elif not os.path.exists(made):
            raise RuntimeError("too early")
        return share

    run_jobs(local(tmp_path, 3, 0), "m", [], first_alone=True, job=job)


def test_a_command_that_fails_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="error: --share 5/2: write JOB/JOBS"):
        run_share(
            "ssod.tools.pseudo_label",
            ["--config-file", "x", "--weights", "w", "--output", "o"],
            "5/2",
        )


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_cluster_arguments(parser)
    return parser.parse_args(options)


def test_arguments() -> None:
    args = parsed("--cluster", "slurm", "--jobs", "64", "--cluster-options", "a=1", "b=c=d")
    assert cluster_from(args, "f") == Cluster("slurm", 64, 2, "f", {"a": 1, "b": "c=d"})
    argv = [
        "--config-file",
        "x",
        "--cluster-options",
        "a=1",
        "--jobs",
        "4",
        "--wild",
        "w",
        "K",
        "V",
    ]
    assert without_cluster_arguments(argv) == ["--config-file", "x", "--wild", "w", "K", "V"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--jobs", "0"], "--jobs 0: use 1 or more"),
        (["--retries", "-1"], "--retries -1: use 0 or more"),
        (["--cluster-options", "partition"], "partition: write KEY=VALUE"),
    ],
)
def test_wrong_arguments_are_one_line(options: List[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        cluster_from(parsed("--cluster", "local", *options), "f")


def test_options_that_the_executor_does_not_know_are_one_line(tmp_path: Path) -> None:
    cluster = Cluster("local", 1, 0, str(tmp_path), {"no_such_option": 1})
    with pytest.raises(UserError, match="^--cluster local: .*no_such_option"):
        run_jobs(cluster, "m", [])


def test_submitit_is_asked_for_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "submitit":
            raise ImportError(name)
        return inner(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'ssod\[cluster\]'"):
        run_jobs(local(tmp_path, 1, 0), "m", [])
