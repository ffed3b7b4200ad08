"""Batches of images: padding against calls."""

from ssod.detectors.grouping import group_images, padded_size


def test_padded_size_rounds_up() -> None:
    assert padded_size((33, 64), 32) == (64, 64)
    assert padded_size((33, 64), 0) == (33, 64)


def test_equal_padded_sizes_share_a_batch() -> None:
    assert group_images([(100, 100), (128, 97), (110, 128)], 128, 0) == [[0, 1, 2]]


def test_merges_only_where_padding_is_cheaper_than_a_call() -> None:
    sizes = [(10, 20), (10, 22), (20, 10)]
    # Merging 0 and 1 pads 20 pixels; merging either with 2 would pad at least 200.
    assert group_images(sizes, 1, 21) == [[0, 1], [2]]
    assert group_images(sizes, 1, 20) == [[0], [1], [2]]
    assert group_images(sizes, 1, 10_000) == [[0, 1, 2]]


def test_every_image_is_in_one_batch() -> None:
    sizes = [(64 + 7 * i % 50, 64 + 13 * i % 90) for i in range(20)]
    groups = group_images(sizes, 32, 2_000)
    assert sorted(i for group in groups for i in group) == list(range(20))
    assert group_images([], 32, 10) == []
