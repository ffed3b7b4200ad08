"""Weights & Biases offline and MLflow's file store, read back."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any, Dict, List

import pytest
from detectron2.config import CfgNode

from runs import train
from ssod.trackers.base import RunInfo
from tiny import tiny_cfg, with_squares


def config(squares: Path, output: Path, tracker: str) -> CfgNode:
    cfg = with_squares(tiny_cfg(), squares, output, ("ScoreThreshold",))
    cfg.merge_from_list(["SOLVER.MAX_ITER", 4, "SSOD.BURN_IN_STEPS", 1, "SSOD.VIS_PERIOD", 2])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 2])
    cfg.DATASETS.TEST, cfg.SSOD.WRITERS = ("squares_test",), (tracker,)
    return cfg


def stopped_and_resumed(cfg: CfgNode) -> str:
    """The run's id in the tracker."""
    train(cfg, until=2)
    train(cfg, resume=True)
    return list(json.loads((Path(cfg.OUTPUT_DIR) / "trackers.json").read_text()).values())[0]


# ---------------------------------------------------------------- MLflow


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client of a file store."""
    module = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # else refused by today's versions
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return module


def test_mlflow_file_store(squares: Path, tmp_path: Path, mlflow: Any) -> None:
    cfg = config(squares, tmp_path / "run", "mlflow")
    number = stopped_and_resumed(cfg)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("ssod")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == number and run.info.status == "FINISHED"
    assert run.data.params["SOLVER.MAX_ITER"] == "4"
    assert len(run.data.params) > 300
    steps = [metric.step for metric in client.get_metric_history(number, "total_loss")]
    assert steps[0] < 2 and steps[-1] == 3
    for name in ("teacher/bbox/AP", "test/squares_test/bbox/AP", "lr"):
        assert name in run.data.metrics
    names = {item.path.split("/")[-1] for item in client.list_artifacts(number, "model")}
    assert names == {"teacher_final.pth", "results.json"}
    pictures = client.list_artifacts(number, "pseudo_labels_weak_strong")
    assert {item.path.split("/")[-1] for item in pictures} >= {"0000003.png"}


def test_mlflow_run_that_was_deleted_begins_anew(tmp_path: Path, mlflow: Any) -> None:
    from ssod.trackers.mlflow_tracker import MlflowTracker

    tracker = MlflowTracker()
    former = "0" * 32
    number = tracker.start(RunInfo("a", str(tmp_path), {"A": {"(B": "x" * 9999}}, former))
    assert number != former
    tracker.scalars({"AP-a (odd) name,": 1.0, "nan": float("nan")}, 3)
    tracker.finish("failed")
    run = mlflow.MlflowClient().get_run(number)
    assert run.info.status == "FAILED" and run.data.metrics["AP-a _odd_ name_"] == 1.0
    assert run.data.params == {"A._B": "x" * 500}


def test_mlflow_server_that_does_not_answer(
    squares: Path,
    tmp_path: Path,
    mlflow: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    one_warning(config(squares, tmp_path / "run", "mlflow"), caplog)


# ---------------------------------------------------------------- Weights & Biases


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Weights & Biases without network or login."""
    module = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    for name in ("API_KEY", "PROJECT", "NAME", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    module.teardown()  # its settings are those of its first use
    yield module
    module.teardown()


def records(path: Path) -> List[Any]:
    """The records in an offline run's file: a log of LevelDB's format behind seven bytes.

    Blocks of 32 KiB hold pieces of records: checksum (4 bytes), length (2), kind (1), content. A
    piece is a whole record (kind 1), or the first, a middle or the last piece of one (2, 3, 4).
    """
    from wandb.proto import wandb_internal_pb2

    data, position, pieces, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        pieces += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            found.append(record)
            pieces = b""
    return found


def history(found: List[Any]) -> List[Dict[str, Any]]:
    rows = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def test_wandb_offline_store(squares: Path, tmp_path: Path, offline: Any) -> None:
    cfg = config(squares, tmp_path / "run", "wandb")
    number = stopped_and_resumed(cfg)
    offline.teardown()  # ends the process that writes the files
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(number) for folder in folders)
    found = [records(next(folder.glob("*.wandb"))) for folder in folders]
    (run,) = [r.run for r in found[0] if r.WhichOneof("record_type") == "run"][:1]
    assert (run.project, run.run_id) == ("ssod", number) and run.display_name.endswith("/run")
    settings = {item.key: item.value_json for item in run.config.update}
    assert json.loads(settings["SOLVER"])["MAX_ITER"] == 4
    rows = history(found[1])
    losses = [row for row in rows if "total_loss" in row]
    assert losses and losses[-1]["iteration"] == 3
    assert any("test/squares_test/bbox/AP" in row for row in rows)
    assert any(row.get("pseudo_labels: weak, strong/_type") == "image-file" for row in rows)
    (artifact,) = [r.artifact for r in found[1] if r.WhichOneof("record_type") == "artifact"]
    assert artifact.type == "model" and "teacher_final.pth" in str(artifact.manifest)


def test_no_login_is_one_warning(
    squares: Path,
    tmp_path: Path,
    offline: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    line = one_warning(config(squares, tmp_path / "run", "wandb"), caplog)
    assert "wandb login" in line


def one_warning(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> str:
    """Trains to the end; the one warning about trackers."""
    cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()])
    with caplog.at_level(logging.INFO, logger="ssod"):
        train(cfg)
    assert (Path(cfg.OUTPUT_DIR) / "teacher_final.pth").exists()
    (line,) = [r.getMessage() for r in caplog.records if "SSOD.WRITERS" in r.getMessage()]
    assert "Training goes on" in line
    return line
