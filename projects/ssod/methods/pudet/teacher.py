"""A detector that only teaches."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import device as Device

from ssod.detectors.rcnn.supported import check_supported
from ssod.errors import UserError

_KEY = "SSOD.BOUNDED_DISTILLATION"


class FrozenTeacher:
    """A trained detector in eval mode and without gradients.

    It is not an `nn.Module`, so DDP, the optimiser, checkpoints and the moving average ignore it.

    Args:
        cfg: the teacher's own config. weights: a weights file, or a full checkpoint, from which the
            teacher is taken.
        swaps: whether the teacher needs the images' channels in the other order (RGB instead of
            BGR).
    """

    def __init__(self, cfg: CfgNode, weights: str, swaps: bool) -> None:
        self.swaps = swaps
        self._cfg = cfg.clone()
        self._cfg.defrost()
        self._cfg.MODEL.DEVICE = "cpu"
        self._weights = weights
        self._model: Optional[Any] = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "FrozenTeacher":
        """The teacher that `SSOD.BOUNDED_DISTILLATION` names, checked against the student's
        config.
        """
        from ssod.engine.setup import load_config  # which imports the methods

        node = cfg.SSOD.BOUNDED_DISTILLATION
        if not node.TEACHER_WEIGHTS:
            raise UserError(
                f"{_KEY}.TEACHER is 'frozen', which needs {_KEY}.TEACHER_WEIGHTS: name a trained detector, or use 'ema'."
            )
        own = load_config(node.TEACHER_CONFIG) if node.TEACHER_CONFIG else cfg
        for find in (_classes, _box_weights):
            (key, theirs), (own_key, ours) = find(own), find(cfg)
            if theirs != ours:
                raise UserError(
                    f"{_KEY}.TEACHER_CONFIG {node.TEACHER_CONFIG} has {key} {theirs} and the student {own_key} {ours}: make "
                    "them equal."
                )
        return cls(own, node.TEACHER_WEIGHTS, swaps=own.INPUT.FORMAT != cfg.INPUT.FORMAT)

    def output_shape(self) -> Dict[str, ShapeSpec]:
        """The output shapes of the backbone. They need no weights."""
        return build_backbone(self._cfg).output_shape()

    def load(self) -> None:
        """Reads the weights.

        Raises:
            UserError: the weights are missing or do not fit, or the model cannot teach.
        """
        from ssod.engine.loading import load_detector

        model = load_detector(self._cfg, self._weights, None)
        check_supported(model)
        self._model = model.requires_grad_(False)

    def on(self, device: Device) -> Any:
        """The `GeneralizedRCNN` on a device."""
        if self._model is None:
            self.load()
        assert self._model is not None
        if self._model.device != device:
            self._model.to(device)
        return self._model


def _classes(cfg: CfgNode) -> Tuple[str, int]:
    return "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES


def _box_weights(cfg: CfgNode) -> Tuple[str, Tuple[float, ...]]:
    """Key and value of what the deltas of the box head, of a cascade its first stage, are scaled
    by.
    """
    if cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads":
        key = "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"
        return key, tuple(cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[0])
    return "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", tuple(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS)
