"""Makes the teacher follow the student by an exponential moving average and by copies, with
multi-tensor operations.
"""

from __future__ import annotations

from typing import List, Tuple

import torch
from torch import Tensor, nn

from ssod.detectors.features import batch_norms
from ssod.utils.comm import all_reduce_mean


class MovingAverage:
    """theta_t <- decay * theta_t + (1 - decay) * theta_s for parameters. Buffers are copied.

    Args:
        teacher, student: modules with the same structure. Their tensors may be filled in place, not
            replaced.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self._parameters = _pairs(list(teacher.parameters()), list(student.parameters()))
        self._buffers = _pairs(list(teacher.buffers()), list(student.buffers()))
        # Each rank has its own batch-norm statistics. The teacher of every rank gets their mean.
        self._statistics = [
            tensor
            for layer in batch_norms(student)
            for tensor in (layer.running_mean, layer.running_var)
        ]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Does one step of the average."""
        teacher, student = self._parameters
        torch._foreach_lerp_(teacher, student, 1.0 - decay)
        self._copy_buffers()

    @torch.no_grad()
    def copy(self) -> None:
        """Copies the student into the teacher."""
        torch._foreach_copy_(*self._parameters)
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        all_reduce_mean(self._statistics)
        teacher, student = self._buffers
        if teacher:
            torch._foreach_copy_(teacher, student)


def _pairs(teacher: List[Tensor], student: List[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
    shapes = [tensor.shape for tensor in teacher]
    if shapes != [tensor.shape for tensor in student]:
        raise ValueError("teacher and student differ in structure")
    return teacher, student
