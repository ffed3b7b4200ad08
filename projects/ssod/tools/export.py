"""Writes a trained model for others: as plain Detectron2, as TorchScript, or as ONNX.

ssod export --config-file X.yaml --weights OUTPUT_DIR --output DIR
    [--format detectron2 | torchscript | onnx] [--check SET_OR_FOLDER]
"""

from __future__ import annotations

import argparse
import os
from typing import List, Optional

from detectron2.config import CfgNode

from ssod.deploy.images import image_files
from ssod.deploy.plain import export, modules_to_import, packages_to_install, snippet
from ssod.deploy.portable import export_portable
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="ssod export",
        description="Write the trained model for others. detectron2: config.yaml, model.pth and classes.json, which "
        "Detectron2 runs. torchscript, onnx: the model with suppression inside, for images of any size, model.json, and "
        "predict.py, which needs PyTorch or ONNX Runtime, NumPy and Pillow alone; written only if it detects what the "
        "original does.",
    )
    parser.add_argument("--config-file", required=True, help="the training config")
    parser.add_argument(
        "--weights",
        required=True,
        help="OUTPUT_DIR of a finished run, a weights file, or a full training checkpoint",
    )
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--format",
        choices=("detectron2", "torchscript", "onnx"),
        default="detectron2",
        help="default: detectron2",
    )
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        help="which one of a full checkpoint (default: teacher)",
    )
    parser.add_argument(
        "--check",
        metavar="SET",
        help="torchscript, onnx: a dataset of the config or a folder, on whose images the detections must equal the "
        "original's (default: DATASETS.TEST); 'none': do not compare",
    )
    parser.add_argument(
        "--check-images",
        type=int,
        default=50,
        metavar="N",
        help="the first N of them (default: 50)",
    )
    parser.add_argument(
        "--device", default="cpu", help="torchscript: where it will run, cpu or cuda (default: cpu)"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that training was given"
    )
    args = parser.parse_args(argv)
    if args.check_images < 1:
        parser.error("--check-images must be at least 1; --check none compares nothing")
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    args = parse(argv)
    cfg = load_config(args.config_file, split_opts(args.opts))
    if args.format == "detectron2":
        if args.check is not None or args.device != "cpu":
            raise UserError(
                "--check and --device belong to --format torchscript and onnx: leave them out."
            )
        _detectron2(cfg, args)
    else:
        _portable(cfg, args)


def _detectron2(cfg: CfgNode, args: argparse.Namespace) -> None:
    config_path, weights_path, classes_path = export(cfg, args.weights, args.output, args.model)
    needs = (
        "with Detectron2 and what is imported here"
        if modules_to_import(cfg)
        else "with Detectron2 alone"
    )
    packages = packages_to_install(cfg)
    installed = f" (pip install {' '.join(packages)})" if packages else ""
    print(
        f"Wrote {config_path}, {weights_path} and {classes_path}. To run it, {needs}{installed}:\n"
    )
    print("\n".join(snippet(cfg, config_path, weights_path)))
    if packages:
        folder = os.path.dirname(config_path)
        print(f"\nOr in one line: ssod.deploy.predictor.predictor({folder!r})(image)")


def _portable(cfg: CfgNode, args: argparse.Namespace) -> None:
    images = [] if args.check == "none" else image_files(cfg, args.check, args.check_images)
    exported = export_portable(
        cfg,
        args.weights,
        args.output,
        args.format,
        role=args.model,
        images=images,
        device=args.device,
    )
    found = exported.comparison
    if found is None:
        print("Not compared with the original (--check none).")
    else:
        print(f"It detects what the original does. {found.line()}.")
        if not found.detections:
            print("note: the model finds nothing in these images, so the comparison says little.")
    print(f"Wrote {', '.join(exported.files)}.")
    runtime = "PyTorch" if args.format == "torchscript" else "ONNX Runtime"
    print(f"To run it, with {runtime}, NumPy and Pillow:\n")
    print(f"python {exported.files[-1]} IMAGE_OR_FOLDER --score 0.5 --output detections.json")


if __name__ == "__main__":
    run_cli(main)
