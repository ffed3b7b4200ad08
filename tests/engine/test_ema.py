"""The moving average."""

import torch
from torch import nn

from ssod.engine.ema import MovingAverage


def pair() -> tuple[nn.Module, nn.Module]:
    teacher, student = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    for parameter in teacher.parameters():
        nn.init.constant_(parameter, 1.0)
    for parameter in student.parameters():
        nn.init.constant_(parameter, 3.0)
    student[1].running_mean.fill_(7.0)
    return teacher, student


def test_parameters_average_and_buffers_copy() -> None:
    teacher, student = pair()
    MovingAverage(teacher, student).update(0.75)
    assert all((p == 1.5).all() for p in teacher.parameters())  # 0.75 * 1 + 0.25 * 3
    assert (teacher[1].running_mean == 7).all()
    assert all((p == 3).all() for p in student.parameters())


def test_copy() -> None:
    teacher, student = pair()
    MovingAverage(teacher, student).copy()
    for a, b in zip(teacher.state_dict().values(), student.state_dict().values()):
        assert torch.equal(a, b)
