"""RT-DETR v2 (Lv et al., 2024): the model of `transformers`, a Detectron2 backbone."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ssod.detectors.detr.building import (
    build_criterion,
    build_levels,
    cells,
    check_width,
    common_arguments,
    stand_in,
    strides_of,
)
from ssod.detectors.detr.initial_weights import start_box_head, start_class_head, start_weights
from ssod.detectors.detr.library import transformers_class
from ssod.detectors.detr.meta_arch import TransformerDetector
from ssod.detectors.detr.padding import BackboneLevels, ValidArea
from ssod.detectors.detr.precision import output_float32, use_float32
from ssod.detectors.detr.predictions import Denoising, Layers, Predictions
from ssod.detectors.detr.targets import DetrLabels
from ssod.detectors.features import FeatureMaps
from ssod.errors import UserError

KEY = "RT_DETR"
NAME = "RTDETRV2"
NORMS = ("BN", "SyncBN", "FrozenBN", "GN")


@META_ARCH_REGISTRY.register()
class RTDETRV2(TransformerDetector):
    """The arguments are those of `TransformerDetector`; the config's keys are under
    `MODEL.RT_DETR`.

    The model knows nothing of padding, so boxes are shares of the padded image here.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.MODEL[KEY]
        check_width(cfg, KEY)
        if node.NORM not in NORMS:
            raise UserError(f"MODEL.{KEY}.NORM is {node.NORM!r}: use {' or '.join(NORMS)}.")
        backbone = build_levels(cfg, KEY)
        strides = strides_of(backbone, node.IN_FEATURES)
        if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:])):
            raise UserError(
                f"MODEL.{KEY}.IN_FEATURES have the strides {strides}: each must be twice the one before."
            )
        size = list(node.INPUT_SIZE)
        if size and (len(size) != 2 or any(side < 1 or side % strides[-1] for side in size)):
            raise UserError(
                f"MODEL.{KEY}.INPUT_SIZE is {size}: use (height, width), multiples of {strides[-1]}, or () to keep sizes."
            )
        return {
            **common_arguments(cfg, node),
            "detr": build_rt_detr(node, backbone),
            "criterion": build_criterion(node, varifocal=True),
            "area": ValidArea(),
            # Levels are scaled by 2 and joined, so that sides must be multiples of all strides.
            "size_divisibility": max(backbone.size_divisibility, strides[-1]),
            "input_size": size,
        }

    def pixel_mask(self, mask: Tensor) -> Optional[Tensor]:
        return None

    def box_sizes(self, images: List[Tensor], batch: ImageList) -> List[Tuple[int, int]]:
        if self.input_size:
            return [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = batch.tensor.shape[-2:]
        return [(int(height), int(width))] * len(images)

    def places(self, height: int, width: int) -> Optional[int]:
        strides = strides_of(self.backbone, self.detr.model.backbone.in_features)
        return cells(height, width, strides)

    def idle(self, predictions: Predictions) -> List[Tensor]:
        embedding = getattr(self.detr.model, "denoising_class_embed", None)
        own = [] if embedding is None else [embedding.weight]
        return own + super().idle(predictions)

    def read(
        self,
        output: Any,
        labels: Optional[DetrLabels],
        maps: FeatureMaps,
        sizes: List[Tuple[int, int]],
    ) -> Predictions:
        if labels is None:
            decoder = Layers(output.logits[None], output.pred_boxes[None])
            return Predictions(decoder, None, None, False, None, maps, sizes)
        found = output.loss_dict
        logits, boxes = found["logits"].transpose(0, 1), found["boxes"].transpose(0, 1)
        noisy = logits.shape[2] - self.detr.config.num_queries  # they come first
        denoising = None
        if self.detr.config.num_denoising > 0:
            meta = found["denoising_meta_values"]
            layers = Layers(logits[:, :, :noisy], boxes[:, :, :noisy])
            groups = 1 if meta is None else meta["dn_num_group"]
            denoising = Denoising(layers, _noisy_assignment(labels, meta, noisy), groups)
        hidden = output.intermediate_hidden_states.transpose(0, 1)
        return Predictions(
            Layers(logits[:, :, noisy:], boxes[:, :, noisy:]),
            hidden[:, :, noisy:],
            Layers(found["enc_topk_logits"][None], found["enc_topk_bboxes"][None]),
            encoder_binary=False,
            denoising=denoising,
            maps=maps,
            sizes=sizes,
        )


def _noisy_assignment(labels: DetrLabels, meta: Any, queries: int) -> Tensor:
    """(N, D) the label that each denoising query started at; -1 for negative and idle ones."""
    device = labels.classes.device
    found = torch.full((len(labels.counts), queries), -1, dtype=torch.int64, device=device)
    if meta is not None:
        for row, count, positive in zip(found, labels.counts, meta["dn_positive_idx"]):
            row[positive] = torch.arange(count, device=device).tile(meta["dn_num_group"])
    return found


def build_rt_detr(node: CfgNode, backbone: Backbone) -> Any:
    """The library's model, started as the published one.

    Args:
        node: `MODEL.RT_DETR`. backbone: goes inside.
    """
    shapes = backbone.output_shape()
    levels, width = len(node.IN_FEATURES), node.HIDDEN_DIM
    config = transformers_class("RTDetrV2Config", NAME)(
        backbone_config=stand_in("RTDetrResNetConfig", levels, NAME),
        num_labels=node.NUM_CLASSES,
        num_queries=node.NUM_OBJECT_QUERIES,
        num_feature_levels=levels,
        decoder_n_levels=levels,
        encoder_in_channels=[shapes[name].channels for name in node.IN_FEATURES],
        feat_strides=[shapes[name].stride for name in node.IN_FEATURES],
        encode_proj_layers=[levels - 1],
        encoder_hidden_dim=width,
        d_model=width,
        decoder_in_channels=[width] * levels,
        encoder_layers=node.ENC_LAYERS,
        decoder_layers=node.DEC_LAYERS,
        encoder_attention_heads=node.NHEADS,
        decoder_attention_heads=node.NHEADS,
        encoder_ffn_dim=node.DIM_FEEDFORWARD,
        decoder_ffn_dim=node.DIM_FEEDFORWARD,
        decoder_n_points=node.DEC_POINTS,
        hidden_expansion=node.HIDDEN_EXPANSION,
        dropout=node.DROPOUT,
        num_denoising=node.NUM_DENOISING,
        label_noise_ratio=node.LABEL_NOISE,
        box_noise_scale=node.BOX_NOISE,
        # The library would share one head among all layers; the published model has one a layer.
        tie_word_embeddings=False,
    )
    detr = transformers_class("RTDetrV2ForObjectDetection", NAME)(config)
    model = detr.model
    # The decoder has the heads. These are copies that `forward` does not use.
    del detr.class_embed, detr.bbox_embed
    start_weights(detr)
    if node.NUM_DENOISING > 0:
        model.denoising_class_embed.reset_parameters()
    for head in [model.enc_score_head, *model.decoder.class_embed]:
        start_class_head(head)
    for head in [model.enc_bbox_head, *model.decoder.bbox_embed]:
        start_box_head(head)
    model.backbone = BackboneLevels(backbone, node.IN_FEATURES)
    model.encoder_input_proj = nn.ModuleList(
        nn.Sequential(nn.Conv2d(shapes[name].channels, width, 1, bias=False), nn.BatchNorm2d(width))
        for name in node.IN_FEATURES
    )
    if node.NORM != "BN":
        for part in (model.encoder_input_proj, model.encoder, model.decoder_input_proj):
            _replace_norms(part, node.NORM)
    # What follows takes its number type from these: the grid of proposals, for one.
    for projection in model.decoder_input_proj:
        output_float32(projection)
    for part in (model.enc_score_head, model.enc_bbox_head):
        use_float32(part)
    use_float32(model.decoder.class_embed)
    use_float32(model.decoder.bbox_embed)
    return detr


def _replace_norms(module: nn.Module, norm: str) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            if norm == "GN" and child.num_features % 32:
                raise UserError(
                    f"MODEL.{KEY}.NORM GN needs layers of a multiple of 32 channels, and one has {child.num_features}: change "
                    "HIDDEN_EXPANSION, or use another norm."
                )
            setattr(module, name, get_norm(norm, child.num_features))
        else:
            _replace_norms(child, norm)
