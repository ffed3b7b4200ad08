"""The digit scenes are the published ones: annotations everywhere, pixels under the versions of the
hash file.
"""

import dataclasses
import importlib.util
import itertools
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT.parent / "shared" / "digit_scenes.py"


def load_module(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits():
    return load_module(ROOT / "datasets" / "digit_scenes.py", "digit_scenes_under_test")


@pytest.fixture
def few_test_scenes(digits, monkeypatch):
    """Only two scenes for validation and test, which have no option."""
    original = digits.Options.splits

    def splits(options):
        return {
            name: dataclasses.replace(split, images=2) if split.balanced else split
            for name, split in original(options).items()
        }

    monkeypatch.setattr(digits.Options, "splits", splits)


@pytest.fixture(scope="module")
def first_scenes(digits):
    options = digits.Options()
    return {
        name: list(itertools.islice(digits.draw_split(split, options), digits.HASH_PREFIX))
        for name, split in options.splits().items()
    }


def prefix_hashes(digits, scenes):
    digest = digits.SceneHash()
    for scene in scenes:
        digest.add(scene)
    return digest.lines


@pytest.mark.parametrize("split", ["labeled", "unlabeled", "val", "test"])
def test_boxes_equal_the_committed_hashes(digits, first_scenes, split):
    expected = digits.committed_hashes()
    assert prefix_hashes(digits, first_scenes[split])["boxes[:8]"] == expected[f"{split}.boxes[:8]"]


@pytest.mark.parametrize("split", ["labeled", "unlabeled", "val", "test"])
def test_pixels_equal_the_committed_hashes(digits, first_scenes, split):
    if digits.versions() not in digits.HASH_FILE.read_text():
        pytest.skip(f"the hashes are of other versions than {digits.versions()}")
    expected = digits.committed_hashes()
    found = prefix_hashes(digits, first_scenes[split])
    assert found["pixels[:8]"] == expected[f"{split}.pixels[:8]"]


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference generator is not here")
@pytest.mark.parametrize("split", ["labeled", "unlabeled", "val", "test"])
def test_scenes_equal_the_reference(first_scenes, split):
    reference = load_module(REFERENCE, "digit_scenes_reference")
    _, seed, writers, balanced = reference.SPLITS[split]
    rng = np.random.RandomState(seed)
    for scene in first_scenes[split]:
        image, boxes, classes = reference.scene(rng, reference.WRITERS[writers], balanced)
        assert (scene.boxes, scene.classes) == (boxes, classes)
        assert np.array_equal(scene.image, image)


def test_writes_a_small_dataset_once(digits, tmp_path, first_scenes, few_test_scenes):
    arguments = [str(tmp_path), "--labeled", "3", "--unlabeled", "4", "--wild", "7"]
    digits.main(arguments)
    content = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert len(content["labeled.json"]["images"]) == 3 and content["labeled.json"]["annotations"]
    assert len(content["unlabeled.json"]["images"]) == 4
    assert content["unlabeled.json"]["annotations"] == []
    total = len(content["labeled.json"]["annotations"]) + len(
        content["unlabeled_truth.json"]["annotations"]
    )
    assert len(content["all.json"]["annotations"]) == total
    for image in content["all.json"]["images"]:
        assert (tmp_path / image["file_name"]).exists()
    assert np.array_equal(
        cv2.imread(str(tmp_path / "labeled" / "00002.png")), first_scenes["labeled"][2].image
    )
    box = content["labeled.json"]["annotations"][0]
    x0, y0, x1, y1 = first_scenes["labeled"][0].boxes[0]
    assert box["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    assert box["category_id"] == first_scenes["labeled"][0].classes[0] + 1

    for annotation in content["all.json"]["annotations"]:
        mask = mask_util.decode(annotation["segmentation"])
        y, x = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert left <= x.min() and x.max() < left + width
        assert top <= y.min() and y.max() < top + height and mask.sum() >= 4

    kinds = [image["kind"] for image in content["wild_truth.json"]["images"]]
    assert sorted(kinds) == ["clutter", "letters", "letters", "scene", "scene", "scene", "shapes"]
    scenes = {i["id"] for i in content["wild_truth.json"]["images"] if i["kind"] == "scene"}
    assert {a["image_id"] for a in content["wild_truth.json"]["annotations"]} == scenes

    before = (tmp_path / "labeled" / "00000.png").stat().st_mtime_ns
    digits.main(arguments)
    # For data from a version without masks, only the annotations are written again.
    marker, written = tmp_path / ".scenes.json", (tmp_path / "all.json").read_text()
    marker.write_text(
        json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "masks"})
    )
    (tmp_path / "all.json").write_text("")
    digits.main(arguments)
    assert (tmp_path / "all.json").read_text() == written
    assert (tmp_path / "labeled" / "00000.png").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="other options"):
        digits.main([str(tmp_path), "--labeled", "5"])


def test_interrupted_run_is_repeated_without_leftovers(digits, tmp_path, few_test_scenes):
    digits.main([str(tmp_path), "--labeled", "3", "--unlabeled", "2"])
    (tmp_path / ".scenes.json").unlink()
    digits.main([str(tmp_path), "--labeled", "1", "--unlabeled", "2"])
    assert [p.name for p in (tmp_path / "labeled").iterdir()] == ["00000.png"]


def test_a_later_digit_hides_the_pixels_of_an_earlier_one(digits):
    opacity = np.array([[0.36, 0.3], [1.0, 0.35]])
    mask = digits.placed(opacity, 5, 7)
    assert sorted(map(tuple, np.argwhere(mask))) == [(7, 5), (8, 5)]
    left = digits.hidden_by(mask, np.ones((1, 1)), 5, 8)
    assert sorted(map(tuple, np.argwhere(left))) == [(7, 5)]
    scenes = digits.draw_split(digits.Options().splits()["val"], digits.Options())
    for scene in itertools.islice(scenes, 5):
        assert len(scene.masks) == len(scene.boxes)
        assert np.sum(scene.masks, axis=0).max() <= 1


def test_options_change_the_scenes(digits):
    options = digits.Options(imbalance=1.0, sizes=(20,), labeled=30)
    assert options.class_frequencies() == pytest.approx([0.1] * 10)
    scenes = list(digits.draw_split(options.splits()["labeled"], options))
    sides = [max(x1 - x0, y1 - y0) for s in scenes for x0, y0, x1, y1 in s.boxes]
    assert max(sides) <= 20
    assert {k for s in scenes for k in s.classes} == set(range(10))
    assert digits.Options(seed=5).splits()["val"].seed == 505


@pytest.mark.parametrize(
    "option", [["--imbalance", "0"], ["--labeled", "0"], ["--sizes", "200"], ["--wild", "-1"]]
)
def test_bad_options_end_the_program(digits, tmp_path, option):
    with pytest.raises(SystemExit):
        digits.main([str(tmp_path / "new"), *option])
    assert not (tmp_path / "new").exists()
