"""Weights by name: which tensor of a file belongs to which tensor of a model.

Files of timm, torchvision and Detectron2 name the same backbone differently. Training programs also
put prefixes before its names ("module.", "backbone.", ...). So names are converted to one spelling,
and the pair of prefixes is used that matches the most tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Sequence

from torch import Tensor

# Detectron2's ResNet in torchvision's names, which are timm's too.
_RESNET = (
    (re.compile(r"^stem\.conv1\.(weight)$"), r"conv1.\1"),
    (re.compile(r"^stem\.conv1\.norm\."), "bn1."),
    (re.compile(r"^res(\d)\.(\d+)\.shortcut\.norm\."), r"layer\1.\2.downsample.1."),
    (re.compile(r"^res(\d)\.(\d+)\.shortcut\."), r"layer\1.\2.downsample.0."),
    (re.compile(r"^res(\d)\.(\d+)\.conv(\d)\.norm\."), r"layer\1.\2.bn\3."),
    (re.compile(r"^res(\d)\.(\d+)\.conv(\d)\."), r"layer\1.\2.conv\3."),
)
_LAYER = re.compile(r"^layer(\d)\.(?=\d+\.(?:downsample|bn|conv)\d?\.)")
# A prefix is tried where it stands before at least this share of the file's most frequent one.
_SHARE = 0.25


@dataclass(frozen=True)
class NameMatch:
    """What of a file has a place in a model.

    Attributes:
        pairs: the model's name -> the file's. prefix: what the model has before these names ("" for
            a whole detector).
        total: tensors of the model below `prefix`. wrong_shape: the model's names whose tensor has
            another shape in the file.
        left: names of the file without a place.
    """

    pairs: Dict[str, str]
    prefix: str = ""
    total: int = 0
    wrong_shape: List[str] = field(default_factory=list)
    left: List[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model or its backbone was found."""
        return len(self.pairs) == self.total

    def __str__(self) -> str:
        what = "model" if not self.prefix else "backbone"
        parts = [f"{len(self.pairs)} of the {what}'s {self.total} tensors loaded by name"]
        if self.wrong_shape:
            parts.append(
                f"{len(self.wrong_shape)} have another shape in the file ({self._few(self.wrong_shape)})"
            )
        if self.left:
            parts.append(
                f"{len(self.left)} others of the file have no place here ({self._few(self.left)})"
            )
        return "; ".join(parts)

    @staticmethod
    def _few(names: Sequence[str]) -> str:
        return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def canonical(name: str) -> str:
    """A tensor's name in the spelling that is compared.

    timm's `features_only` turns "stages.0.blocks" into "stages_0.blocks" and may put "model."
    before it.
    """
    for pattern, replacement in _RESNET:
        name, count = pattern.subn(replacement, name)
        if count:
            # Detectron2 counts from res2, torchvision from layer1.
            name = _LAYER.sub(lambda found: f"layer{int(found[1]) - 1}.", name)
            break
    return name.removeprefix("model.").replace("_", ".")


def match_names(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Dict[str, str]:
    """Target name -> source name, where the canonical names are the same and the shapes too."""
    return _match(source, target, "", "").pairs


def match_model(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], prefixes: Sequence[str]
) -> NameMatch:
    """The match of a file with a whole model or with its backbone, whichever gives more tensors.

    Args:
        source: name -> tensor or array of the file. target: the model's state dict. prefixes: of
            the model's backbones, such as "backbone.bottom_up.". What the model itself calls its
            tensors wins on a tie.
    """
    tried = [
        _match(source, target, ours, theirs)
        for ours in dict.fromkeys(["", *prefixes])
        for theirs in ["", *frequent_prefixes(list(source))]
    ]
    return max(tried, key=lambda match: len(match.pairs))


def frequent_prefixes(names: Sequence[str]) -> List[str]:
    """What may stand before a backbone's names: "module.", "module.backbone.", ...; averaged
    weights come first.
    """
    counts: Counter = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(5, len(parts))))
    least = _SHARE * max(counts.values(), default=0)
    found = [prefix for prefix, count in counts.items() if count >= least]
    return sorted(found, key=lambda prefix: not re.search("ema|teacher", prefix, re.IGNORECASE))


def _match(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], ours: str, theirs: str
) -> NameMatch:
    by_name = {canonical(name[len(theirs) :]): name for name in source if name.startswith(theirs)}
    wanted = [name for name in _without_counters(target) if name.startswith(ours)]
    pairs, wrong = {}, []
    for name in wanted:
        other = by_name.get(canonical(name[len(ours) :]))
        if other is None:
            continue
        if tuple(source[other].shape) == tuple(target[name].shape):
            pairs[name] = other
        else:
            wrong.append(name)
    used = set(pairs.values())
    left = [name for name in _without_counters(source) if name not in used]
    return NameMatch(pairs, ours, len(wanted), wrong, left)


def match_in_order(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Dict[str, str]:
    """Target name -> source name, one to one in order; empty unless each pair has the same shape.

    For the same architecture written by someone else: its tensors come in the same order under
    other names.
    """
    ours, theirs = _without_counters(target), _without_counters(source)
    same = len(ours) == len(theirs) and all(
        target[a].shape == source[b].shape for a, b in zip(ours, theirs)
    )
    return dict(zip(ours, theirs)) if same else {}


def _without_counters(state: Mapping[str, Tensor]) -> List[str]:
    return [name for name in state if not name.endswith("num_batches_tracked")]
