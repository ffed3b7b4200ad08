"""The choice of images that keep their labels, the content hash of split files, and its check over
ranks.
"""

import json
import random

import pytest

from ssod.config import add_ssod_config
from ssod.data import splits
from ssod.data.split_rules import choose, choose_by_index, usable_classes
from ssod.errors import UserError

from detectron2.config import CfgNode, get_cfg  # isort: skip


def make_coco(classes_of_images, categories=2):
    """One 4 x 4 box a class listed; image ids count from 1."""
    coco = {
        "images": [{"id": i + 1, "file_name": f"{i}.png"} for i in range(len(classes_of_images))],
        "annotations": [],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(categories)],
    }
    for i, classes in enumerate(classes_of_images):
        for k in classes:
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": k,
                    "bbox": [1, 1, 4, 4],
                    "area": 16,
                    "iscrowd": 0,
                    "segmentation": [[1, 1, 5, 1, 5, 5]],
                }
            )
    return coco


def test_percent_counts_images_with_usable_boxes():
    coco = make_coco([[0]] * 150 + [[]] * 50)
    coco["annotations"][0]["iscrowd"] = 1
    coco["annotations"][1]["bbox"] = [1, 1, 0, 4]
    assert len(usable_classes(coco)) == 148
    assert len(choose(coco, percent=10)) == 14  # 14.8 rounded down
    assert not choose(coco, percent=99) & ({1, 2} | set(range(151, 201)))
    assert len(choose(coco, percent=0.1)) == 1


def test_draws_are_fixed_nested_and_independent_of_file_order():
    coco = make_coco([[0]] * 100)
    one, ten = choose(coco, percent=1), choose(coco, percent=10)
    # Known values: the draw must never change, on any platform.
    assert sorted(ten) == [1, 2, 4, 25, 30, 34, 53, 79, 89, 94]
    assert one < ten
    shuffled = {**coco, "images": random.Random(1).sample(coco["images"], 100)}
    assert choose(shuffled, percent=10) == ten
    folds = [frozenset(choose(coco, percent=10, fold=f)) for f in range(5)]
    assert len(set(folds)) == 5
    assert choose(coco, percent=10, seed=1) not in folds


def test_min_boxes_takes_only_images_that_help():
    coco = make_coco([[0, 0, 0]] * 50 + [[1]] * 5 + [[0, 1]] * 2)
    for fold in range(5):
        chosen = choose(coco, min_boxes=3, fold=fold)
        counts = usable_classes(coco)
        assert sum(counts[i][0] for i in chosen) >= 3 and sum(counts[i][1] for i in chosen) >= 3
        assert len(chosen) <= 4  # one image fills class 0; three are enough for class 1
    with pytest.raises(UserError, match=r"impossible: .*c1 \(7\)"):
        choose(coco, min_boxes=8)


def test_min_boxes_and_percent():
    coco = make_coco([[0]] * 95 + [[1]] * 5)
    chosen = choose(coco, percent=10, min_boxes=2)
    assert len(chosen) == 10
    assert len(chosen & set(range(96, 101))) >= 2
    with pytest.raises(UserError, match="takes 6 images, 5 percent are 5"):
        choose(coco, percent=5, min_boxes=3)


def test_unbiased_teacher_indices_count_images_with_boxes_by_id():
    coco = make_coco([[0], [], [0], [0], [0]])
    coco["annotations"][2]["iscrowd"] = 1  # image 4 has crowd boxes only
    coco["images"].reverse()
    assert choose_by_index(coco, [1, 2], 67, "seeds") == {3, 5}
    with pytest.raises(UserError, match="seeds does not belong to this dataset"):
        choose_by_index(coco, [1, 3], 67, "seeds")
    with pytest.raises(UserError, match="draws 1 images for 67 percent, which would be 2 of 3"):
        choose_by_index(coco, [1], 67, "seeds")


def test_split_hides_the_labels_of_the_rest():
    coco = make_coco([[0], [1], [0, 1]])
    parts = splits.split_coco(coco, {2}, {"seed": 0})
    assert [i["id"] for i in parts["labeled"]["images"]] == [2]
    assert [a["image_id"] for a in parts["labeled"]["annotations"]] == [2]
    assert [i["id"] for i in parts["unlabeled"]["images"]] == [1, 3]
    assert parts["unlabeled"]["annotations"] == []
    assert [a["image_id"] for a in parts["unlabeled_truth"]["annotations"]] == [1, 3, 3]
    polygon = [[1, 1, 5, 1, 5, 5]]
    for part in ("labeled", "unlabeled_truth", "unlabeled_true_labels"):
        assert all(a["segmentation"] == polygon for a in parts[part]["annotations"])


def test_content_hash_ignores_formatting_but_no_value():
    coco = splits.split_coco(make_coco([[0], [1]]), {1}, {"seed": 0})["labeled"]
    stored = coco["info"][splits.HASH_KEY]
    again = json.loads(json.dumps(dict(reversed(coco.items())), indent=3))
    assert splits.content_hash(again) == stored
    again["annotations"][0]["bbox"][0] += 1
    assert splits.content_hash(again) != stored
    again = json.loads(json.dumps(coco))
    again["info"]["ssod_split"]["seed"] = 1
    assert splits.content_hash(again) != stored


def test_files_are_replaced_only_when_forced(tmp_path):
    first, second = tmp_path / "new" / "a.json", tmp_path / "b.json"
    assert splits.write_files({first: {"x": 1}}) == [first]
    assert splits.write_files({first: {"x": 1}}) == []
    with pytest.raises(UserError, match="a.json exists with other content: add --force"):
        splits.write_files({second: {}, first: {"x": 2}})
    assert not second.exists() and json.loads(first.read_text()) == {"x": 1}
    assert splits.write_files({first: {"x": 2}}, force=True) == [first]
    assert json.loads(first.read_text()) == {"x": 2}
    assert [p.name for p in first.parent.iterdir()] == ["a.json"]


def make_cfg(**declared):
    cfg = get_cfg()
    add_ssod_config(cfg)
    for name, declaration in declared.items():
        cfg.SSOD.DATASETS[name] = CfgNode(declaration)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(declared), ()
    return cfg


def test_edited_split_files_are_refused(tmp_path):
    path = tmp_path / "s.json"
    content = splits.split_coco(make_coco([[0], [1]]), {1}, {})["labeled"]
    path.write_text(json.dumps(content, indent=1))
    cfg = make_cfg(t_hash={"FORMAT": "coco", "ANNOTATIONS": str(path), "IMAGES": str(tmp_path)})
    splits.check_split_hashes(cfg)
    content["images"].append({"id": 9, "file_name": "9.png"})
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="s.json was changed after make_splits wrote it"):
        splits.check_split_hashes(cfg)
    del content["info"][splits.HASH_KEY]
    path.write_text(json.dumps(content))
    splits.check_split_hashes(cfg)
    path.unlink()
    with pytest.raises(UserError, match="s.json does not exist"):
        splits.check_split_hashes(cfg)


def test_large_files_are_checked_by_their_bytes(tmp_path, monkeypatch):
    path, small = tmp_path / "s.json", tmp_path / "small.json"
    content = splits.split_coco(make_coco([[0], [1]]), {1}, {"source": "a"})["labeled"]
    splits.write_files({small: content})
    monkeypatch.setattr(splits, "LARGE", 0)
    assert splits.write_files({path: content}) == [path]
    assert splits.write_files({path: content}) == []
    wanted = splits.verified_hash(str(small))
    with monkeypatch.context() as patch:
        patch.setattr(splits, "read_json", None)  # it is not read as JSON
        assert splits.verified_hash(str(path)) == wanted
    data = path.read_bytes()
    # Another layout has another sum of bytes, but the same content.
    path.write_text(json.dumps(json.loads(data), indent=1))
    assert splits.verified_hash(str(path)) == wanted
    path.write_bytes(data.replace(b'.png"', b'.jpg"', 1))
    with pytest.raises(UserError, match="was changed after make_splits wrote it"):
        splits.verified_hash(str(path))


def test_files_without_own_hash_and_folders_are_compared_too(tmp_path):
    from ssod.data.coco import CocoSet
    from ssod.data.folder import FolderSet

    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.png").write_bytes(b"")
    for dataset in (
        CocoSet("c", str(tmp_path / "a.json"), ""),
        FolderSet("f", str(tmp_path)),
    ):
        before = splits.dataset_hash(dataset)
        assert splits.dataset_hash(dataset) == before
        (tmp_path / "a.json").write_text('{"images": []}')
        (tmp_path / "b.png").write_bytes(b"")
        assert splits.dataset_hash(dataset) != before
        (tmp_path / "b.png").unlink()


def test_ranks_must_agree():
    same = ([("train", "1"), ("val", "2")], None)
    splits.raise_on_difference([same, same])
    with pytest.raises(UserError, match="files of val differ between rank 0 and rank 1"):
        splits.raise_on_difference([same, ([("train", "1"), ("val", "3")], None)])
    with pytest.raises(UserError, match="^rank 1: gone$"):
        splits.raise_on_difference([same, ([], "gone")])
    with pytest.raises(UserError, match="^gone$"):
        splits.raise_on_difference([([], "gone")])
