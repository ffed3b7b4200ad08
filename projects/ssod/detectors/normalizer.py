"""The running number of positives that RetinaNet and FCOS divide their losses by."""

from __future__ import annotations

from typing import Dict

import torch
from torch import nn

from ssod.utils.comm import all_reduce_mean


class LossNormalizer:
    """The attribute `loss_normalizer` of a model or its parts, which no `state_dict` has.

    Equal on all ranks, and in the checkpoint, so that a resumed run goes on exactly where it
    stopped.
    """

    NAME = "loss_normalizer"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def _owners(self) -> Dict[str, nn.Module]:
        """The parts with a normaliser, by the name of the attribute in the model."""
        owners = {}
        for path, module in self.model.named_modules():
            if isinstance(vars(module).get(self.NAME), (int, float)):
                owners[f"{path}.{self.NAME}".lstrip(".")] = module
        return owners

    def synchronize(self) -> None:
        """Replaces it by its mean over ranks; called on every rank after every forward."""
        owners = self._owners()
        values = [
            torch.tensor(float(getattr(module, self.NAME)), dtype=torch.float64)
            for module in owners.values()
        ]
        if values:
            all_reduce_mean(values)
        for module, value in zip(owners.values(), values):
            setattr(module, self.NAME, float(value))

    def state_dict(self) -> Dict[str, float]:
        return {name: float(getattr(m, self.NAME)) for name, m in self._owners().items()}

    def load_state_dict(self, state: Dict[str, float]) -> None:
        # A model that has not trained yet may not have the attribute.
        for name, value in state.items():
            setattr(self.model.get_submodule(name.rpartition(".")[0]), self.NAME, value)
