"""Images that need a look: worked out by hand."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import pytest

from ssod.plotting.run_data import RunData
from ssod.report.attention import changed_class, confident_and_wrong, never_confident
from ssod.report.attention_section import attention_section

NAMES = ["ant", "bee", "cow"]
LEFT, RIGHT = [0.0, 0, 10, 10], [20.0, 0, 30, 10]


def row(name: str, labels: List[Any], truth: Optional[List[Any]] = None, **more: Any) -> Any:
    """One image. labels: (box, class, score). truth: (box, class)."""
    content = {
        "file_name": f"/data/{name}.png",
        "boxes": [box for box, _, _ in labels],
        "classes": [kind for _, kind, _ in labels],
        "scores": [score for _, _, score in labels],
        **more,
    }
    if truth is not None:
        content["truth_boxes"] = [box for box, _ in truth]
        content["truth_classes"] = [kind for _, kind in truth]
    return content


def measured(*steps: List[Any]) -> Dict[int, Any]:
    """Quality files of steps 100, 200, ..."""
    return {
        100 * index: {"step": 100 * index, "classes": NAMES, "images": rows}
        for index, rows in enumerate(steps, 1)
    }


def test_changed_class() -> None:
    near = [1.0, 0, 10, 10]  # IoU 0.9 with LEFT
    quality = measured(
        [row("a", [(LEFT, 0, 0.9)]), row("b", [(LEFT, 0, 0.9), (RIGHT, 1, 0.8)]), row("c", [])],
        [row("a", [(near, 1, 0.6)]), row("b", [(RIGHT, 1, 0.8), (LEFT, 0, 0.7)]), row("c", [])],
        [row("a", [(LEFT, 2, 0.7)]), row("b", [(RIGHT, 0, 0.8)]), row("c", [(LEFT, 0, 0.9)])],
    )
    first, second = changed_class(quality)
    assert first.file_name == "/data/a.png"
    assert first.urgency == pytest.approx(0.6 + 0.6) and second.urgency == pytest.approx(0.8)
    assert first.lines == [
        "bee 0.60 at step 200 became cow 0.70 at step 300",
        "ant 0.90 at step 100 became bee 0.60 at step 200",
    ]
    assert [caption for caption, _ in first.shots] == ["step 200", "step 300"]
    assert [boxes.classes for _, boxes in first.shots] == [[1], [2]]
    # Labels in another order are the same; only the right one has changed.
    assert second.lines == ["bee 0.80 at step 200 became ant 0.80 at step 300"]
    assert second.shots[0][1].boxes == [RIGHT]
    assert changed_class({}) == [] and changed_class(dict([*quality.items()][:1])) == []


def test_of_several_labels_of_an_object_the_best_counts() -> None:
    """Several classes share a box where no threshold selects."""
    early = [row("a", [(LEFT, 0, 0.9), (LEFT, 1, 0.3)]), row("b", [(LEFT, 0, 0.2), (LEFT, 1, 0.8)])]
    late = [row("a", [(LEFT, 1, 0.4), (LEFT, 0, 0.9)]), row("b", [(LEFT, 0, 0.7), (LEFT, 1, 0.1)])]
    (only,) = changed_class(measured(early, late))
    assert only.lines == ["bee 0.80 at step 100 became ant 0.70 at step 200"]


def test_a_box_elsewhere_is_another_object() -> None:
    quality = measured([row("a", [(LEFT, 0, 0.9)])], [row("a", [(RIGHT, 1, 0.9)])])
    assert changed_class(quality) == []


def test_confident_and_wrong() -> None:
    shifted = [6.0, 0, 16, 10]  # IoU 4 / 16 with LEFT
    truth = [(LEFT, 0)]
    last = [
        row("right", [(LEFT, 0, 0.9)], truth),
        row("class", [(LEFT, 1, 0.85)], truth),
        row("unsure", [(LEFT, 1, 0.79)], truth),
        row("nothing", [(RIGHT, 0, 0.95), (LEFT, 0, 0.99)], truth),
        row("off", [(shifted, 0, 0.9)], truth),
        row("twice", [(LEFT, 0, 0.9), (LEFT, 0, 0.8)], truth),
        row("unknown", [(LEFT, 1, 0.99)]),
        row("empty", [(LEFT, 1, 0.82)], []),
    ]
    wrong = [row("class", [(LEFT, 2, 1.0)], truth)]  # of an earlier evaluation: no matter
    found = confident_and_wrong(measured(wrong, last))
    assert [(f.file_name[6:-4], *f.lines) for f in found] == [
        ("nothing", "ant 0.95: no true box is there"),
        ("off", "ant 0.90: the box is off (IoU 0.25)"),
        ("class", "bee 0.85: the truth is ant"),
        ("empty", "bee 0.82: no true box is there"),
        ("twice", "ant 0.80: a second label of one object"),
    ]
    (_, labels), (caption, true) = found[0].shots
    assert labels.boxes == [RIGHT] and caption == "truth" and true.boxes == [LEFT]
    assert confident_and_wrong({}) == []


def test_never_confident() -> None:
    def best(score: float) -> Dict[str, Any]:
        return {"best": {"box": LEFT, "class": 1, "score": score}}

    quality = measured(
        [row("once", [(LEFT, 0, 0.9)]), row("low", [], **best(0.5)), row("none", [], [(LEFT, 0)])],
        [row("once", []), row("low", [], **best(0.3)), row("none", [], [(LEFT, 0)])],
    )
    none, low = never_confident(quality)
    assert none.lines == ["no label at any measurement; 1 true boxes"]
    assert [len(boxes.boxes) for _, boxes in none.shots] == [0, 1]
    assert low.lines == ["no label at any measurement; the best candidate is bee 0.30"]
    assert low.shots[0][1].boxes == [LEFT]
    assert never_confident({}) == []


def test_section_counts_and_shares_its_room() -> None:
    quality = measured([row(str(i), [], [(LEFT, 0)]) for i in range(40)])
    one = attention_section([RunData("/one", "one", quality=quality)])
    assert one is not None and "never a label: 40 of 40 images" in one.html
    # None of these files exists.
    assert "12 images cannot be read here" in one.html
    four = [RunData(f"/{n}", f"run {n}", quality=quality) for n in range(6)]
    several = attention_section(four)
    assert several is not None and "run 3, never a label" in several.html
    assert several.html.count("3 images cannot be read here") == 6
    assert attention_section([RunData("/none", "none")]) is None
