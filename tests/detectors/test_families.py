"""Every cell of the table of methods and families trains for three steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple, Type

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, BoxMode
from detectron2.utils.events import EventStorage

from families import TINY
from ssod.data.masks import encode_mask
from ssod.detectors.registry import find_detector
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import Method, TrainingData, build_methods
from ssod.methods.composition import shared_group
from ssod.structures import Sample, SSODBatch
from ssod.tools.detector_table import main, own_families, own_methods, serves, table
from tiny import CLASSES, make_image, make_sample, tiny_cfg

PAGE = Path(__file__).parents[2] / "docs" / "detectors.md"
METHODS = dict(own_methods())
FAMILIES = {kind.family: kind for kind in own_families()}


def test_the_page_has_todays_table(tmp_path: Path) -> None:
    assert table() in PAGE.read_text(), "run python -m ssod.tools.detector_table"
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text().replace(table(), "old"))
    main(["--output", str(copy)])
    assert copy.read_text() == PAGE.read_text()
    copy.write_text("nothing")
    with pytest.raises(UserError, match="lacks the lines"):
        main(["--output", str(copy)])


def test_every_family_has_a_tiny_model() -> None:
    assert set(TINY) == set(FAMILIES)


def stacks(family: str) -> List[Tuple[str, ...]]:
    """All methods that the table allows, in as few runs as their exclusions permit.

    A selector comes first, then what can stand beside it.
    """
    left = [name for name, kind in METHODS.items() if serves(FAMILIES[family], kind)]
    weighs = bool(FAMILIES[family].capabilities)
    found = []
    while left:
        chosen: List[str] = []
        for name in [*left, *METHODS]:
            wanted = [name, *METHODS[name].requires]
            new = [one for one in wanted if one not in chosen]
            fits = all(serves(FAMILIES[family], METHODS[one]) for one in new) and all(
                shared_group(METHODS[one], METHODS[other]) is None
                for one in new
                for other in [*chosen, *new]
                if one != other
            )
            filling = name not in left and not fills(name, chosen, weighs)
            if fits and not filling:
                chosen += new
        left = [name for name in left if name not in chosen]
        found.append(tuple(ordered(chosen)))
    return found


def fills(name: str, chosen: List[str], weighs: bool) -> bool:
    """Whether a method that has had its turn is needed again, for the stack to be allowed."""
    kinds = [METHODS[one] for one in chosen]
    if name == "ScoreThreshold":
        return not any(kind.selects_pseudo_labels for kind in kinds)
    if name == "PseudoBoxRegression":
        return not weighs and not any(kind.regresses_pseudo_boxes for kind in kinds)
    return False


def ordered(names: List[str]) -> List[str]:
    """Selectors, the others, those that add labels."""

    def place(name: str) -> int:
        kind: Type[Method] = METHODS[name]
        return 0 if kind.selects_pseudo_labels else 2 if kind.adds_labels else 1

    return sorted(names, key=place)


CELLS = [(family, stack) for family in FAMILIES for stack in stacks(family)]


def test_the_stacks_cover_the_table() -> None:
    covered = {(family, name) for family, stack in CELLS for name in stack}
    claimed = {
        (family, name)
        for family, one in FAMILIES.items()
        for name, method in METHODS.items()
        if serves(one, method)
    }
    assert covered == claimed


def cfg_of(family: str, names: Tuple[str, ...]) -> CfgNode:
    cfg = tiny_cfg()
    for name in names:
        METHODS[name].trial_config(cfg, 0.002, 0.001)
    meta = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = meta.MODEL.META_ARCHITECTURE  # trials may choose their own
    cfg.merge_from_list([*TINY[family], "SSOD.METHODS", names])
    cfg.merge_from_list(["SSOD.PSEUDO_SCORE_FLOOR", 0.0005, "SSOD.SCORE_THRESHOLD", 0.002])
    if family == "any other model":  # its losses cannot weigh single labels
        cfg.SSOD.CROP_BANK.SELECTIVE_SUPERVISION, cfg.SSOD.MIXUP_MOSAIC.MIXUP_PROB = False, 0.0
    for name in names:
        if METHODS[name].config_key:
            node = cfg.SSOD.get(METHODS[name].config_key, CfgNode())
            if "RPN_SCORE_THRESHOLD" in node:
                node.RPN_SCORE_THRESHOLD = 0.0
    return cfg


def sample(index: int, labeled: bool, masks: bool) -> Sample:
    made = make_sample(index, labeled)
    if masks and made.instances is not None:
        made.instances.gt_masks = BitMasks(
            torch.ones(len(made.instances), 64, 64, dtype=torch.bool)
        )
    return made


def records(count: int) -> List[Dict[str, Any]]:
    """Dataset dicts of squares, with masks."""
    found = []
    for index in range(count):
        _, annotations = make_image(np.random.default_rng(index))
        for annotation in annotations:
            annotation.update(category_id=annotation["category_id"] - 1, bbox_mode=BoxMode.XYWH_ABS)
            annotation["segmentation"] = encode_mask(np.ones((64, 64), dtype=bool))
        size = {"height": 64, "width": 64, "image_id": index}
        found.append({"file_name": f"{index}.png", **size, "annotations": annotations})
    return found


@pytest.mark.parametrize("family, names", CELLS)
def test_three_steps(family: str, names: Tuple[str, ...]) -> None:
    if "DETR" in family:
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    cfg = cfg_of(family, names)
    methods = build_methods(cfg)
    labeled = records(4)
    unlabeled = [{k: v for k, v in r.items() if k != "annotations"} for r in records(12)]
    for method in methods.values():
        method.setup(TrainingData(labeled, unlabeled, CLASSES))
    core = TeacherStudent.from_config(cfg, build_model(cfg), methods)
    assert type(core.detector) is find_detector(core.student) is FAMILIES[family]
    optimizer = torch.optim.SGD(core.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in core.student.named_parameters()}
    with EventStorage() as storage:
        for core.step in range(3):
            masks = cfg.MODEL.MASK_ON
            own = [sample(core.step, True, masks)]
            other = [sample(5 + i, False, masks) for i in range(2)] if core.step else []
            losses = core(SSODBatch(own, other))
            assert losses and all(torch.isfinite(loss) for loss in losses.values())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            for method in methods.values():
                method.snapshot(core.step)
            storage.step()
    assert core.last_pseudo is not None
    assert set(core.last_numbers) == {f"activity/{name}" for name in names}
    moved = [n for n, p in core.student.named_parameters() if not torch.equal(p, before[n])]
    assert moved and all(torch.isfinite(p).all() for p in core.student.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str) -> None:
    """Under bfloat16 each loss is near that of float32, and has finite gradients."""
    if "DETR" in family:
        pytest.importorskip("transformers")
    names = ("ScoreThreshold", "PseudoBoxRegression")
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        cfg = cfg_of(family, names)
        cfg.SSOD.SCORE_THRESHOLD = 0.0  # rounding may move no label across it
        core = TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))
        core.step = 1
        masks = cfg.MODEL.MASK_ON
        with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = core(SSODBatch([sample(0, True, masks)], []))
        sum(losses.values()).backward()
        gradients = [p.grad for p in core.student.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(g).all() for g in gradients)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[1] == pytest.approx(found[0], rel=0.2, abs=0.1)
