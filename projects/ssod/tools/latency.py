"""Times a trained model on the CPU as Detectron2, TorchScript and ONNX Runtime run it.

ssod latency --config-file X.yaml --weights OUTPUT_DIR [--images SET_OR_FOLDER] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Dict, List, Optional

import torch

from ssod.data.pixels import read_pixels
from ssod.deploy.check import Reference, load_predictor
from ssod.deploy.formats import onnx_is_installed
from ssod.deploy.images import image_files
from ssod.deploy.latency import Runner, machine, measure, table
from ssod.deploy.portable import export_portable
from ssod.engine.loading import load_detector
from ssod.engine.setup import load_config, run_cli, split_opts


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="ssod latency",
        description="Time one image after another on the CPU: Detectron2, TorchScript, ONNX Runtime. Reading files is not "
        "timed, scaling them is.",
    )
    parser.add_argument("--config-file", required=True, help="the training config")
    parser.add_argument(
        "--weights", required=True, help="OUTPUT_DIR of a finished run, or a weights file"
    )
    parser.add_argument(
        "--images", metavar="SET", help="a dataset or a folder (default: DATASETS.TEST)"
    )
    parser.add_argument("--count", type=int, default=10, help="its first images (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="times an image (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="default: as many as PyTorch takes")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that training was given"
    )
    args = parser.parse_args(argv)
    if min(args.count, args.rounds) < 1 or args.threads < 0:
        parser.error("--count and --rounds must be at least 1, --threads not negative")
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    cfg = load_config(args.config_file, split_opts(args.opts))
    cfg.MODEL.DEVICE = "cpu"
    files = image_files(cfg, args.images, args.count, option="--images")
    images = [read_pixels(file, "RGB") for file in files]
    runners: Dict[str, Runner] = {
        "Detectron2": Reference(cfg, load_detector(cfg, args.weights, None))
    }
    forms = {"torchscript": "TorchScript"}
    if onnx_is_installed():
        forms["onnx"] = "ONNX Runtime"
    else:
        print("note: onnx and onnxruntime are not installed: pip install 'ssod[export]'.")
    with tempfile.TemporaryDirectory(prefix="ssod-latency-") as folder:
        for form, title in forms.items():
            path = os.path.join(folder, form)
            export_portable(cfg, args.weights, path, form)
            runners[title] = load_predictor(path, threads)
        found = measure(runners, images, args.rounds)
    sizes = sorted({f"{image.shape[1]} x {image.shape[0]}" for image in images})
    print(table(found))
    print(
        f"\n{len(images)} images of {', '.join(sizes[:3])}{' ...' if len(sizes) > 3 else ''} pixels, {machine()}"
    )


if __name__ == "__main__":
    run_cli(main)
