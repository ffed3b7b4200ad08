"""Features of many images: groups, selection, pooling."""

from __future__ import annotations

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes

from ssod.detectors.features import FeatureGroup, FeatureMaps, extract_features
from tiny import make_sample, tiny_cfg

# Two batches, neither padded.
SIZES = [(64, 128), (128, 64), (64, 128)]


def test_selected_images_pool_as_alone() -> None:
    """Whatever shares a batch, an image's boxes get that image's features, in the images' order."""
    model = build_model(tiny_cfg()).eval()
    images = [make_sample(i, False, size).weak for i, size in enumerate(SIZES)]
    boxes = [Boxes(torch.tensor([[4.0, 4.0, 30.0 + i, 40.0]]).repeat(i + 1, 1)) for i in range(3)]
    with torch.no_grad():
        maps = extract_features(model, images)
        assert [group.indices for group in maps.groups] == [[0, 2], [1]]
        pooled = maps.box_features(model.roi_heads, boxes).split([len(b) for b in boxes])
        part = maps.select(1, 3)
        chosen = part.box_features(model.roi_heads, boxes[1:3]).split([2, 3])
        assert part.num_images == 2
        for i in range(3):
            alone = extract_features(model, [images[i]])
            assert torch.allclose(
                alone.box_features(model.roi_heads, [boxes[i]]), pooled[i], atol=1e-5
            )
        assert all(torch.allclose(chosen[i], pooled[i + 1], atol=1e-5) for i in range(2))


def test_half_precision_features_do_not_move_boxes() -> None:
    """bfloat16 rounds 1,299 to 1,296; the pooled values must not."""
    model = build_model(tiny_cfg()).eval()
    ramp = torch.arange(400.0).expand(1, 32, 8, 400) / 400
    box = [Boxes(torch.tensor([[1299.0, 4.0, 1315.0, 20.0]]))]

    def pooled(dtype: torch.dtype) -> torch.Tensor:
        levels = {f"p{i}": ramp[:, :, :, :: 2 ** (i - 2)].to(dtype) for i in range(2, 6)}
        maps = FeatureMaps([FeatureGroup([0], levels, levels, [(32, 1600)])], 1)
        seen = []
        handle = model.roi_heads.box_pooler.register_forward_hook(lambda m, a, o: seen.append(o))
        with torch.no_grad():
            maps.box_features(model.roi_heads, box)
        handle.remove()
        return seen[0].float()

    exact = pooled(torch.float32)
    shift = (pooled(torch.bfloat16) - exact).mean().abs()
    assert shift < 1e-3  # a shift of 3 pixels would be 0.0019
