"""`FREEZE_AT` for timm's families: the stem and the first stages do not learn."""

from __future__ import annotations

from typing import Any, Set

from torch import nn

from ssod.backbones.names import canonical
from ssod.backbones.norms import freeze_batch_norm
from ssod.errors import UserError


def freeze_stages(body: nn.Module, full: nn.Module, freeze_at: int) -> None:
    """Freezes the first groups of parameters of `body`, in place, as Detectron2's FREEZE_AT counts
    them.

    Args:
        body: the features of a timm model. full: the whole model (meta tensors suffice), which
            knows its groups.
        freeze_at: 0 nothing; 1 the stem; 2 the stem and the first stage of blocks, and so on.
            BatchNorm in there keeps its statistics too: it is replaced, since `train()` would undo
            eval mode.

    Raises:
        UserError: the model has fewer groups, or does not name them.
    """
    if not freeze_at:
        return
    frozen = first_groups(body, full, freeze_at)
    for name, module in list(body.named_modules()):
        for child_name, child in list(module.named_children()):
            prefix = f"{name}.{child_name}." if name else f"{child_name}."
            names = {canonical(prefix + key) for key, _ in child.named_parameters()}
            if names and names <= frozen:
                setattr(module, child_name, freeze_batch_norm(child))
    for name, parameter in body.named_parameters():
        if canonical(name) in frozen:
            parameter.requires_grad_(False)


def first_groups(body: nn.Module, full: nn.Module, count: int) -> Set[str]:
    """Canonical names of the parameters in the stem and the stages after it, `count` groups in all.

    Groups without a parameter in `body`, such as the classifier, do not count.
    """
    from timm.models import group_parameters

    kind = type(full).__name__
    matcher: Any = getattr(full, "group_matcher", None)
    if matcher is None:
        raise UserError(f"MODEL.TIMM.FREEZE_AT: {kind} does not tell its stages: set it to 0.")
    present = {canonical(name) for name, _ in body.named_parameters()}
    groups = {
        index: {canonical(name) for name in names} & present
        for index, names in group_parameters(full, matcher(coarse=True)).items()
    }
    order = sorted(index for index, names in groups.items() if names)
    if not 0 <= count <= len(order):
        raise UserError(
            f"MODEL.TIMM.FREEZE_AT is {count}: {kind} has a stem and {len(order) - 1} groups of blocks, so use "
            f"0 to {len(order)}."
        )
    return {name for index in order[:count] for name in groups[index]}
