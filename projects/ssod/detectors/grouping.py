"""Groups images into forward passes: padding costs computation, and each pass costs time."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

# The cost of one more forward and backward, in pixels of padding that take as long. CPU: 20 ms
# beside 1.5 ms for 1,000 pixels (ResNet-18, two cores). CUDA: 24 ms to launch a
# ResNet-50-FPN, beside 7 ms for a megapixel in float32 and 4 in bf16 (H200; docs/results/gpu).
CALL_COST_PIXELS = {"cpu": 128 * 128, "cuda": 4 * 1024 * 1024}

Size = Tuple[int, int]


def padded_size(size: Size, divisibility: int) -> Size:
    """(height, width) rounded up to a multiple of `divisibility` (0 and 1: unchanged)."""
    step = max(divisibility, 1)
    return -(-size[0] // step) * step, -(-size[1] // step) * step


def group_images(sizes: Sequence[Size], divisibility: int, call_cost: int) -> List[List[int]]:
    """Partitions images into batches so that padding never costs more than the call it saves.

    Images of equal padded size always share a batch. Then the two batches whose union saves most
    are merged, until no union saves anything.

    Args:
        sizes: (height, width) of each image. divisibility: of the backbone.
        call_cost: cost of one more batch, in pixels.

    Returns:
        Indices of each batch, ascending; batches in the order of their first image.
    """
    by_size: Dict[Size, List[int]] = {}
    for index, size in enumerate(sizes):
        by_size.setdefault(padded_size(size, divisibility), []).append(index)
    groups = [(size, members) for size, members in by_size.items()]

    def saving(a: Tuple[Size, List[int]], b: Tuple[Size, List[int]]) -> int:
        (ha, wa), (hb, wb) = a[0], b[0]
        together = (len(a[1]) + len(b[1])) * max(ha, hb) * max(wa, wb)
        return call_cost + len(a[1]) * ha * wa + len(b[1]) * hb * wb - together

    while len(groups) > 1:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        i, j = max(pairs, key=lambda pair: saving(groups[pair[0]], groups[pair[1]]))
        if saving(groups[i], groups[j]) <= 0:
            break
        (ha, wa), (hb, wb) = groups[i][0], groups[j][0]
        members = sorted(groups[i][1] + groups[j][1])
        groups[i] = ((max(ha, hb), max(wa, wb)), members)
        del groups[j]
    return sorted(members for _, members in groups)
