"""Deformable DETR (Zhu et al., ICLR 2021): the model of `transformers`, a Detectron2 backbone."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ssod.detectors.detr.building import (
    build_criterion,
    build_levels,
    cells,
    check_width,
    common_arguments,
    move_head,
    stand_in,
    strides_of,
)
from ssod.detectors.detr.initial_weights import start_box_head, start_class_head, start_weights
from ssod.detectors.detr.library import transformers_class
from ssod.detectors.detr.meta_arch import TransformerDetector
from ssod.detectors.detr.padding import BackboneLevels, ValidArea, ValidGroupNorm
from ssod.detectors.detr.precision import output_float32, use_float32
from ssod.detectors.detr.predictions import Layers, Predictions
from ssod.detectors.detr.targets import DetrLabels
from ssod.detectors.features import FeatureMaps
from ssod.errors import UserError

KEY = "DEFORMABLE_DETR"
NAME = "DeformableDETR"


@META_ARCH_REGISTRY.register()
class DeformableDETR(TransformerDetector):
    """With learned queries, with boxes refined by each layer, or in two stages.

    The arguments are those of `TransformerDetector`. The config's keys are under
    `MODEL.DEFORMABLE_DETR`.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.MODEL[KEY]
        check_width(cfg, KEY)
        if node.TWO_STAGE and not node.WITH_BOX_REFINE:
            raise UserError(f"MODEL.{KEY}.TWO_STAGE needs WITH_BOX_REFINE: set it to True.")
        if node.NUM_FEATURE_LEVELS < len(node.IN_FEATURES):
            raise UserError(
                f"MODEL.{KEY}.NUM_FEATURE_LEVELS is {node.NUM_FEATURE_LEVELS}, but IN_FEATURES names "
                f"{len(node.IN_FEATURES)} levels: use at least that many."
            )
        area = ValidArea()
        backbone = build_levels(cfg, KEY)
        coarsest = all_strides(backbone, node.IN_FEATURES, node.NUM_FEATURE_LEVELS)[-1]
        return {
            **common_arguments(cfg, node),
            "detr": build_deformable_detr(node, backbone, area),
            "criterion": build_criterion(node, varifocal=False),
            "area": area,
            # Then a cell is valid in every padding or in none: its first pixel says.
            "size_divisibility": max(backbone.size_divisibility, coarsest),
        }

    @property
    def paired(self) -> bool:  # type: ignore[override]
        """Learned queries keep their meaning; those that the encoder proposes do not."""
        return not self.detr.config.two_stage

    def box_sizes(self, images: List[Tensor], batch: ImageList) -> List[Tuple[int, int]]:
        return [(int(height), int(width)) for height, width in batch.image_sizes]

    def places(self, height: int, width: int) -> Optional[int]:
        if not self.detr.config.two_stage:
            return None
        names = self.detr.model.backbone.in_features
        levels = self.detr.config.num_feature_levels
        return cells(height, width, all_strides(self.backbone, names, levels))

    def read(
        self,
        output: Any,
        labels: Optional[DetrLabels],
        maps: FeatureMaps,
        sizes: List[Tuple[int, int]],
    ) -> Predictions:
        if labels is None:
            decoder, hidden, encoder = (
                Layers(output.logits[None], output.pred_boxes[None]),
                None,
                None,
            )
        else:
            decoder = Layers(output.loss_dict["logits"], output.loss_dict["boxes"])
            hidden = output.intermediate_hidden_states.transpose(0, 1)
            encoder = None
            if self.detr.config.two_stage:
                boxes = output.enc_outputs_coord_logits.sigmoid()
                encoder = Layers(output.enc_outputs_class[None], boxes[None])
        return Predictions(
            decoder,
            hidden,
            encoder,
            encoder_binary=True,  # of its scores the model reads the first class alone
            denoising=None,
            maps=maps,
            sizes=sizes,
        )


def all_strides(backbone: Backbone, names: Sequence[str], levels: int) -> List[int]:
    """Pixels a cell of each level, of those beyond the backbone's too."""
    strides = strides_of(backbone, names)
    while len(strides) < levels:
        strides.append(2 * strides[-1])
    return strides


def build_deformable_detr(node: CfgNode, backbone: Backbone, area: ValidArea) -> Any:
    """The library's model, started as the published one.

    Args:
        node: `MODEL.DEFORMABLE_DETR`. backbone: goes inside. area: where the norms read the
            padding.
    """
    levels = len(node.IN_FEATURES)
    config = transformers_class("DeformableDetrConfig", NAME)(
        backbone_config=stand_in("ResNetConfig", levels, NAME),
        num_labels=node.NUM_CLASSES,
        num_queries=node.NUM_OBJECT_QUERIES,
        two_stage_num_proposals=node.NUM_OBJECT_QUERIES,
        num_feature_levels=node.NUM_FEATURE_LEVELS,
        d_model=node.HIDDEN_DIM,
        encoder_layers=node.ENC_LAYERS,
        decoder_layers=node.DEC_LAYERS,
        encoder_attention_heads=node.NHEADS,
        decoder_attention_heads=node.NHEADS,
        encoder_ffn_dim=node.DIM_FEEDFORWARD,
        decoder_ffn_dim=node.DIM_FEEDFORWARD,
        encoder_n_points=node.ENC_POINTS,
        decoder_n_points=node.DEC_POINTS,
        dropout=node.DROPOUT,
        with_box_refine=node.WITH_BOX_REFINE,
        two_stage=node.TWO_STAGE,
        # The library would share one head among all layers, also where each has its own.
        tie_word_embeddings=False,
    )
    detr = transformers_class("DeformableDetrForObjectDetection", NAME)(config)
    model = detr.model
    start_weights(detr)
    if not node.TWO_STAGE:
        nn.init.normal_(model.query_position_embeddings.weight)
    _build_heads(detr, node)
    shapes = backbone.output_shape()
    model.backbone = BackboneLevels(backbone, node.IN_FEATURES)
    channels = [shapes[name].channels for name in node.IN_FEATURES]
    model.input_proj = build_projections(channels, node.NUM_FEATURE_LEVELS, node.HIDDEN_DIM, area)
    output_float32(model.encoder)
    for head in (detr.class_embed, detr.bbox_embed, getattr(model, "reference_points", None)):
        if head is not None:
            use_float32(head)
    return detr


def _build_heads(detr: Any, node: CfgNode) -> None:
    """One head for all layers, or one a layer where layers refine boxes; in place."""
    for head in detr.class_embed:
        start_class_head(head)
    for index, head in enumerate(detr.bbox_embed):
        # Where the first reference is a point, boxes start at an eighth of the image.
        start_box_head(head, -2.0 if index == 0 and not node.TWO_STAGE else 0.0)
    decoder = detr.model.decoder
    if node.WITH_BOX_REFINE:
        move_head(decoder, "bbox_embed", detr.bbox_embed)
        if node.TWO_STAGE:
            move_head(decoder, "class_embed", detr.class_embed)
        return
    for heads in (detr.class_embed, detr.bbox_embed):
        for index in range(len(heads)):
            heads[index] = heads[0]


def build_projections(
    channels: List[int], levels: int, width: int, area: ValidArea
) -> nn.ModuleList:
    """A projection of each backbone level to `width` channels, and strided ones for the levels
    beyond.
    """
    projections = nn.ModuleList()
    for level in range(levels):
        if level < len(channels):
            layer = nn.Conv2d(channels[level], width, 1)
        else:
            source = channels[-1] if level == len(channels) else width
            layer = nn.Conv2d(source, width, 3, stride=2, padding=1)
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        # The published 32 groups of 8 channels, and fewer groups in narrower models.
        groups = math.gcd(32, width // 8)
        projections.append(nn.Sequential(layer, ValidGroupNorm(groups, width, area)))
    return projections
