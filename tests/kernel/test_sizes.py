"""Numbers as the kernel prints and rounds them: sizes, whole blocks, lists and masks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.bitmap import number_list, number_mask
from fakesysfs.kernel.dax.kmem import memory_block_align_range, string_get_size
from fakesysfs.kernel.range import Range
from tests.model import BLOCK


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (216 << 20, "216 MiB"), (64 << 20, "64.0 MiB"), (8 << 20, "8.00 MiB"),  # KERNEL.md 9
        (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (4 << 30, "4.00 GiB"),
        (1 << 40, "1.00 TiB"), (100 << 30, "100 GiB"), (1000 << 20, "1000 MiB"), (10 << 10, "10.0 KiB"),
    ],
)  # fmt: skip
def test_sizes_in_three_digits(size: int, text: str) -> None:
    assert string_get_size(size) == text


@given(st.integers(0, 1 << 63))
def test_a_size_is_a_number_and_a_unit_and_near_the_truth(size: int) -> None:
    number, unit = string_get_size(size).split()
    value = float(number) * 1024 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    assert value == pytest.approx(size, rel=0.006)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (0x180000000, 0x27FFFFFFF, 48, 79),  # dax0.0 of the recorded guest
        (0x282000000, 0x2A77FFFFF, 81, 83),  # dax1.0: 0x288000000-0x29fffffff
        (0, BLOCK - 1, 0, 0),
        (1, BLOCK - 1, 1, 0),
        (0, BLOCK - 2, 0, -1),
        (BLOCK - 1, 2 * BLOCK, 1, 1),
        (BLOCK // 2, BLOCK + BLOCK // 2, 1, 0),
    ],
)
def test_the_whole_blocks_inside_a_range(start: int, end: int, first: int, last: int) -> None:
    aligned = memory_block_align_range(Range(start, end), BLOCK)
    assert (aligned.start, aligned.end + 1) == (first * BLOCK, (last + 1) * BLOCK)


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 34))
def test_what_is_cut_off_is_less_than_a_block_at_each_end(start: int, length: int) -> None:
    span = Range(start, start + length - 1)
    aligned = memory_block_align_range(span, BLOCK)
    assert 0 <= aligned.start - span.start < BLOCK
    assert 0 <= span.end - aligned.end < BLOCK
    assert aligned.length % BLOCK == 0


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1], "0-1"), ([0, 1, 2, 5], "0-2,5"), ([5, 3, 1], "1,3,5"), ([7, 6, 9, 8], "6-9")],
)
def test_lists(numbers: list[int], text: str) -> None:
    assert number_list(numbers) == text


@pytest.mark.parametrize(
    ("numbers", "width", "text"),
    [
        ([], 1, "0"),
        ([0, 1], 2, "3"),
        ([0], 8, "01"),
        ([4], 36, "0,00000010"),
        ([35], 36, "8,00000000"),
        ([], 64, "00000000,00000000"),
    ],
)
def test_masks(numbers: list[int], width: int, text: str) -> None:
    assert number_mask(numbers, width) == text
