"""The report's sections of pictures: pseudo-labels and detections beside the truth."""

from __future__ import annotations

import os
from typing import Optional, Sequence

from ssod.plotting.pictures import Card, Shot, pictures
from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section, join, note, remark
from ssod.report.gallery import (
    SIZE,
    GalleryImage,
    detection_images,
    picture,
    pseudo_label_images,
)


def pseudo_label_gallery(runs: Sequence[RunData]) -> Optional[Section]:
    """Unlabelled images with each run's pseudo-labels beside the truth."""
    images = pseudo_label_images(runs)
    if not images:
        return None
    steps = [f"{run.name}: step {list(run.quality)[-1]}" for run in runs if run.quality]
    meaning = remark(
        f"The labels that the main branch trains on, and their number, of {'; '.join(steps)}."
    )
    return Section("What the teacher teaches", meaning + _pictures(images))


def detection_section(runs: Sequence[RunData]) -> Optional[Section]:
    """The teachers' detections on test or validation images."""
    images, remarks = detection_images(runs)
    if not images and not remarks:
        return None
    meaning = remark("Of the teacher that was evaluated last, and their number, score ≥ 0.5.")
    parts = [meaning, _pictures(images), *map(note, remarks)]
    return Section("Detections", join(parts))


# The longer side of all pictures of an image together, and the least of one.
_ROW, _LEAST = 1440, 240


def _pictures(images: Sequence[GalleryImage]) -> str:
    cards, missing = [], []
    for image in images:
        sources = list(image.labels.items())
        sources += [("truth", image.truth)] if image.truth is not None else []
        size = min(SIZE, max(_LEAST, _ROW // len(sources)))
        shots = []
        for name, labels in sources:
            uri = picture(image.file_name, labels, image.class_names, size)
            if uri:
                shots.append(Shot(f"{name}: {len(labels.boxes)}", uri))
        if shots:
            cards.append(Card(shots, os.path.basename(image.file_name)))
        else:
            missing.append(image.file_name)
    return join([pictures(cards), *missing_note(missing)])


def missing_note(files: Sequence[str]) -> Sequence[str]:
    """A remark about image files that are not on this machine; nothing without any."""
    if not files:
        return []
    return [note(f"{len(files)} images cannot be read here, such as {files[0]}.")]
