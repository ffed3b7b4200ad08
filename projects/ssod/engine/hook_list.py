"""The hooks of a training run, in their order."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from ssod.data.label_columns import label_columns
from ssod.data.snapshots import SnapshotBoard
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.ema import MovingAverage
from ssod.engine.hooks import (
    CollapseWatch,
    DrawPseudoLabels,
    Evaluation,
    PublishSnapshots,
    TeacherUpdate,
)
from ssod.engine.inert import InertWatch
from ssod.engine.progress_bar import training_bar
from ssod.engine.quality_hook import PseudoLabelQuality
from ssod.engine.teacher_student import TeacherStudent
from ssod.methods import TrainingData


def training_hooks(
    cfg: CfgNode,
    core: TeacherStudent,
    data: TrainingData,
    *,
    average: MovingAverage,
    board: SnapshotBoard,
    checkpointer: SSODCheckpointer,
    mutual_from: Optional[int],
    evaluate: Callable[[str], Dict[str, Any]],
    remember_best: Callable[[Dict[str, float], int], None],
) -> List[Optional[HookBase]]:
    """Makes the hooks, in the order in which they run.

    The order is: average, methods, warnings, quality and pictures, evaluation, writers, checkpoint.
    The checkpoint comes last. So the step that a resumed run continues from was evaluated and
    logged before.

    Args:
        mutual_from: the first step of mutual learning; None in a supervised run.
        evaluate, remember_best: see `Evaluation`.
    """
    mutual, main = mutual_from is not None, comm.is_main_process()
    steps = cfg.SOLVER.MAX_ITER
    copy_at = mutual_from if cfg.SSOD.EMA.COPY_AFTER_BURN_IN else None
    built: List[Optional[HookBase]] = [
        hooks.IterationTimer(),
        TeacherUpdate(average, cfg.SSOD.EMA.DECAY, copy_at, cfg.SSOD.EMA.WARMUP),
        # The newest two checkpoints can be resumed from.
        PublishSnapshots(core, board, 2 * cfg.SOLVER.CHECKPOINT_PERIOD),
    ]
    for method in core.method_list:
        built.extend(method.build_hooks())
    if mutual:
        boxes = len(label_columns(data.labeled).image)
        built.append(CollapseWatch(boxes / len(data.labeled)))
    if cfg.SSOD.METHODS and main:
        start = mutual_from or 0
        period = min(cfg.TEST.EVAL_PERIOD or steps - start, steps - start)
        built.append(InertWatch(core.method_list, start, period))
    if mutual_from is not None and main:
        names = list(data.class_names)
        built.append(PseudoLabelQuality(cfg, core, data.unlabeled, names, mutual_from))
        if cfg.SSOD.VIS_PERIOD > 0:
            built.append(DrawPseudoLabels(core, cfg.SSOD.VIS_PERIOD, names, cfg.INPUT.FORMAT))
    if cfg.DATASETS.VAL or cfg.DATASETS.TEST:
        first = steps if mutual_from is None else mutual_from
        built.append(Evaluation(cfg.TEST.EVAL_PERIOD, evaluate, remember_best, first))
    if main:
        # A value that is replaced before it is written is lost. So frequent evaluations shorten
        # the writing period.
        period = min(20, cfg.TEST.EVAL_PERIOD or 20)
        built.extend(training_bar())
        built.append(hooks.PeriodicWriter([], period=period))
        built.append(hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
    return built
