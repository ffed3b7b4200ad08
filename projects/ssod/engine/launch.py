"""Starts the processes of a run: one per GPU, or several on the CPU. This module or torchrun spawns
them.

`--num-gpus N` is the number of processes on this machine. On CUDA each process has a GPU, and they
communicate through NCCL. With `MODEL.DEVICE cpu` they share the cores and communicate through gloo.
Under torchrun, torchrun's numbers count.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta
from functools import partial
from typing import Any, Callable, Tuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssod.engine.config_checks import check_device_present
from ssod.engine.interruption import Interrupted, OnSignal
from ssod.errors import UserError
from ssod.utils.failures import as_user_error

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: Tuple[Any, ...] = (),
    device: str = "cuda",
) -> None:
    """Runs `main_func(*args)` in every process, and returns when all have finished.

    Args:
        main_func: a function that can be imported by name, because processes are spawned.
        num_gpus_per_machine: processes on this machine. Ignored under torchrun.
        dist_url: "auto" for a free port of this machine, otherwise "tcp://host:port" of machine 0.
        device: `MODEL.DEVICE`.

    Raises:
        UserError: the numbers do not fit the machine, or a process raised one.
        RuntimeError: a process failed. The message is the first failing rank's traceback. The other
            processes are ended.
    """
    cuda = device.startswith("cuda")
    check_device_present(device)
    if ":" in device and (num_gpus_per_machine * num_machines > 1 or "RANK" in os.environ):
        raise UserError(
            f"MODEL.DEVICE {device} would put all processes on one GPU: use MODEL.DEVICE cuda."
        )
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _run_under_torchrun(main_func, args, cuda)
        return
    _check_counts(num_gpus_per_machine, num_machines, machine_rank, cuda)
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise UserError(
                "--num-machines needs --dist-url tcp://HOST:PORT, with an address of machine 0 and a free port."
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    failures = mp.get_context("spawn").SimpleQueue()
    work = (
        failures,
        main_func,
        args,
        world_size,
        num_gpus_per_machine,
        machine_rank,
        dist_url,
        cuda,
    )
    context = mp.spawn(_worker, args=work, nprocs=num_gpus_per_machine, join=False)
    try:
        with OnSignal(
            partial(_send, context), lambda number: _send(context, signal.SIGKILL)
        ) as request:
            while not context.join():
                pass
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        _raise_first(failures)
        if request.number is not None:
            raise Interrupted(request.number) from None
        if isinstance(error, mp.ProcessRaisedException):
            raise
        raise RuntimeError(
            f"A process was ended from outside ({error}); was the memory exhausted?"
        ) from None
    _raise_first(failures)
    if request.number is not None:
        raise Interrupted(request.number)


def _send(context: Any, number: int) -> None:
    """Passes a signal on to the processes."""
    for process in context.processes:
        if process.is_alive():
            os.kill(process.pid, number)


def wrap_ddp(module: nn.Module) -> nn.Module:
    """Wraps a module for training on several ranks. With one rank it returns the module itself.

    Rank 0's weights are copied to all ranks.
    """
    if comm.get_world_size() == 1:
        return module
    device = next(module.parameters()).device
    return DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=False,
    )


def _check_counts(processes: int, machines: int, machine_rank: int, cuda: bool) -> None:
    if processes < 1 or machines < 1:
        raise UserError(
            f"--num-gpus {processes} --num-machines {machines}: both must be at least 1."
        )
    if not 0 <= machine_rank < machines:
        raise UserError(
            f"--machine-rank {machine_rank}: use 0 to {machines - 1} with --num-machines {machines}."
        )
    if not cuda:
        return
    present = torch.cuda.device_count()
    if processes > present:
        raise UserError(
            f"--num-gpus {processes}, but this machine has {present}: use at most that many."
        )


def _run_under_torchrun(main_func: Callable[..., Any], args: Tuple[Any, ...], cuda: bool) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    _check_counts(local_size, 1, 0, cuda)
    if world_size > 1:
        _initialise(rank, world_size, local_rank, local_size, "env://", cuda)
    main_func(*args)
    _finish()


def _worker(
    local_rank: int,
    failures: Any,
    main_func: Callable[..., Any],
    args: Tuple[Any, ...],
    world_size: int,
    local_size: int,
    machine_rank: int,
    dist_url: str,
    cuda: bool,
) -> None:
    rank = machine_rank * local_size + local_rank
    try:
        _initialise(rank, world_size, local_rank, local_size, dist_url, cuda)
        main_func(*args)
        _finish()
    except Interrupted as stop:
        # All ranks stop in order. Reporting a failure would make the parent kill the others.
        failures.put((time.time(), rank, None, stop.number))
    except Exception as error:
        # If one rank fails, the others soon fail in their next collective. The parent needs the
        # first failure.
        known = as_user_error(error)
        message = traceback.format_exc() if known is None else str(known)
        failures.put((time.time(), rank, known is not None, message))
        raise


def _raise_first(failures: Any) -> None:
    reports = []
    while not failures.empty():
        reports.append(failures.get())
    if not reports:
        return
    interrupted = [number for _, _, kind, number in reports if kind is None]
    if interrupted:
        raise Interrupted(interrupted[0])
    _, rank, known, message = min(reports, key=lambda report: (not report[2], report[0]))
    raise UserError(message) if known else RuntimeError(f"Rank {rank} failed:\n{message}")


def _initialise(
    rank: int, world_size: int, local_rank: int, local_size: int, url: str, cuda: bool
) -> None:
    if cuda:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Otherwise each process would take all cores, and together they would be slower than one.
        torch.set_num_threads(max(1, _cores() // local_size))
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=url,
            rank=rank,
            world_size=world_size,
            timeout=_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        detail = str(error).splitlines()[0]
        raise UserError(
            f"Rank {rank} cannot join the others at {url} ({detail}): check --dist-url and firewalls."
        ) from error
    _create_local_group(local_size, rank // local_size, world_size // local_size)
    comm.synchronize()


def _create_local_group(local_size: int, machine_rank: int, machines: int) -> None:
    """Makes the group of this machine's processes for `comm.get_local_rank`."""
    if hasattr(comm, "create_local_process_group"):  # after 0.6
        comm.create_local_process_group(local_size)
        return
    for machine in range(machines):
        group = dist.new_group(list(range(machine * local_size, (machine + 1) * local_size)))
        if machine == machine_rank:
            comm._LOCAL_PROCESS_GROUP = group


def _finish() -> None:
    if dist.is_initialized():
        comm.synchronize()  # rank 0 holds the meeting point, so it must not leave first
        dist.destroy_process_group()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
