"""Detects objects in images with the exported model in this folder; writes COCO JSON.

Needs NumPy, Pillow, and PyTorch (a TorchScript model) or ONNX Runtime (an ONNX model), nothing
else.

    python predict.py photo.jpg folder/ --score 0.5 --output detections.json

From Python:

    from predict import Detector
    found = Detector()("photo.jpg")     # or an array: uint8 (H, W, 3), RGB
    found["boxes"], found["scores"], found["classes"]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# EXIF's orientation tag, and what turns such an image upright.
_ORIENTATION = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Detector:
    """The model of a folder.

    Args:
        folder: with model.json and the model; this file's own by default.
        threads: that ONNX Runtime computes with; 0: as many as it takes. For a TorchScript model
            call `torch.set_num_threads`.
    """

    def __init__(self, folder: Union[str, Path, None] = None, threads: int = 0) -> None:
        self.folder = Path(folder) if folder else Path(__file__).resolve().parent
        self.facts = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
        self.classes: List[str] = self.facts["classes"]
        path = str(self.folder / self.facts["model"])
        self._run = (
            _torchscript(path, self.facts)
            if self.facts["format"] == "torchscript"
            else _onnx(path, threads)
        )

    def __call__(
        self, image: Union[str, Path, np.ndarray], score: float = 0.0
    ) -> Dict[str, np.ndarray]:
        """Detections in one image.

        Args:
            image: a file, or uint8 (H, W, 3) RGB. score: leaves out what scores less.

        Returns:
            "boxes" (D, 4) XYXY in pixels of the image, "scores" (D,), "classes" (D,) indices into
            `classes`, and for a model with masks "masks", bool (D, H, W). Best first.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        height, width = pixels.shape[:2]
        sized = resize(pixels, self.facts["min_size"], self.facts["max_size"])
        ordered = sized[..., ::-1] if self.facts["input_format"] == "BGR" else sized
        batch = np.ascontiguousarray(ordered.transpose(2, 0, 1), dtype=np.float32)
        found = dict(zip(self.facts["outputs"], self._run(batch)))
        boxes = found["boxes"].astype(np.float32)
        boxes[:, 0::2] = (boxes[:, 0::2] * (width / sized.shape[1])).clip(0, width)
        boxes[:, 1::2] = (boxes[:, 1::2] * (height / sized.shape[0])).clip(0, height)
        found["boxes"] = boxes
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        found = {name: rows[has_area & (found["scores"] >= score)] for name, rows in found.items()}
        if "masks" in found:
            limit = self.facts["mask_threshold"]
            found["masks"] = np.array(
                [
                    paste(m, b, height, width) >= limit
                    for m, b in zip(found["masks"], found["boxes"])
                ]
            ).reshape(-1, height, width)
        return found


def read_image(path: Union[str, Path]) -> np.ndarray:
    """uint8 (H, W, 3) RGB, turned upright as its EXIF tag says; grayscale becomes gray RGB."""
    with Image.open(path) as image:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        elif upright.mode in ("I", "F"):
            values = np.asarray(upright)
            if upright.mode == "I" or not (values.min() >= 0.0 and values.max() <= 1.0):
                raise ValueError("the range of its pixels is unknown: save it with 8 or 16 bits")
            upright = Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))


def resize(pixels: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """Scales the short side to `min_size`, or less where the long side would exceed `max_size`."""
    height, width = pixels.shape[:2]
    if min_size == 0:
        return pixels
    scale = min_size / min(height, width)
    size = [min_size * 1.0, scale * width] if height < width else [scale * height, min_size * 1.0]
    if max(size) > max_size:
        size = [side * (max_size / max(size)) for side in size]
    height, width = int(size[0] + 0.5), int(size[1] + 0.5)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask (S, S) of its box, interpolated over the pixels: (height, width), 0 outside."""

    def weights(low: float, high: float, length: int) -> np.ndarray:
        position = (np.arange(length) + 0.5 - low) / (high - low) * len(mask) - 0.5
        cells = np.arange(len(mask))
        return np.maximum(0.0, 1.0 - np.abs(position[:, None] - cells[None, :]))

    x0, y0, x1, y1 = (float(value) for value in box)
    return weights(y0, y1, height) @ mask @ weights(x0, x1, width).T


def encode(mask: np.ndarray) -> Dict[str, Any]:
    """COCO's compressed run lengths of a bool mask (H, W)."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [0]])
    changes = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    if len(runs) > 1 and runs[-1] == 0:
        runs.pop()
    text = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            low = value & 31
            value >>= 5
            more = value != (-1 if low & 16 else 0)
            text.append(chr((low | 32 if more else low) + 48))
    return {"size": [int(side) for side in mask.shape], "counts": "".join(text)}


def detect_all(detector: Detector, paths: Dict[str, Path], score: float) -> Dict[str, Any]:
    """COCO JSON of many images, files by the names that it gives them.

    Unreadable ones are named on stderr and left out.
    """
    ids = detector.facts["category_ids"]
    content: Dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": title} for i, title in zip(ids, detector.classes)]
    for number, (name, path) in enumerate(paths.items()):
        try:
            pixels = read_image(path)
        except Exception as error:  # Pillow's decoders raise OSError, ValueError and more
            print(f"{path} cannot be read: {error}", file=sys.stderr)
            continue
        image_id = number + 1
        height, width = pixels.shape[:2]
        content["images"].append(
            {"id": image_id, "file_name": name, "height": height, "width": width}
        )
        found = detector(pixels, score)
        for row in range(len(found["scores"])):
            x0, y0, x1, y1 = (round(float(value), 3) for value in found["boxes"][row])
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": ids[int(found["classes"][row])],
                "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
                "area": round((x1 - x0) * (y1 - y0), 3),
                "iscrowd": 0,
                "score": round(float(found["scores"][row]), 6),
            }
            if "masks" in found:
                annotation["segmentation"] = encode(found["masks"][row])
                annotation["area"] = int(found["masks"][row].sum())
            content["annotations"].append(annotation)
        if (number + 1) % 50 == 0:
            print(f"{number + 1} of {len(paths)} images", file=sys.stderr)
    return content


def _torchscript(path: str, facts: Dict[str, Any]) -> Any:
    import torch

    for name in facts["imports"]:
        importlib.import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation that concerns who writes such files
        model = torch.jit.load(path, map_location=facts["device"])

    def run(image: np.ndarray) -> Tuple[np.ndarray, ...]:
        with torch.no_grad():
            outputs = model(torch.from_numpy(image).to(facts["device"]))
        return tuple(output.cpu().numpy() for output in outputs)

    return run


def _onnx(path: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    return lambda image: tuple(session.run(None, {"image": image}))


def find_images(names: List[str]) -> Dict[str, Path]:
    """Image files by name: as given, or relative to the only folder that was given."""
    found: Dict[str, Path] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            found.update({str(p.relative_to(path) if len(names) == 1 else p): p for p in files})
        elif path.is_file():
            found[name] = path
        else:
            sys.exit(f"error: {name} does not exist: name an image or a folder of images.")
    if not found:
        sys.exit(f"error: {' '.join(names)} has no image ({', '.join(sorted(SUFFIXES))}).")
    return found


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Detect objects in images; write COCO JSON.")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files or folders of images"
    )
    parser.add_argument(
        "--score", type=float, default=0.5, help="lowest score that is kept (default: 0.5)"
    )
    parser.add_argument("--output", metavar="FILE", help="where the JSON goes (default: printed)")
    args = parser.parse_args(argv)
    paths = find_images(args.images)
    try:
        detector = Detector()
    except ImportError as error:
        needed = "torch" if error.name == "torch" else error.name
        sys.exit(f"error: {error}: install it (pip install {needed}).")
    content = detect_all(detector, paths, args.score)
    text = json.dumps(content, indent=1)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
        left_out = len(paths) - len(content["images"])
        print(
            f"{len(content['annotations'])} detections in {len(content['images'])} images: {args.output}"
            + (f"; {left_out} images could not be read" if left_out else ""),
            file=sys.stderr,
        )
    else:
        print(text)
    if not content["images"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
