"""/proc/iomem's tree: what may stand beside and inside what (kernel/resource.c)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.resource import IomemResource, Resource


def lines(root: IomemResource) -> list[str]:
    return [f"{'  ' * depth}{item.start}-{item.end} {item.name}" for depth, item in root.walk()]


def test_siblings_stand_by_address_and_do_not_overlap() -> None:
    root = IomemResource()
    assert root.request_region(20, 29, "b") is not None
    assert root.request_region(0, 9, "a") is not None
    for start, end in ((5, 24), (9, 9), (29, 40), (20, 29), (0, 100)):
        assert root.request_region(start, end, "c") is None
    assert lines(root) == ["0-9 a", "20-29 b"]


def test_only_what_is_not_busy_lets_others_inside() -> None:
    """kmem clears the busy flag of its reservation, so that "System RAM (kmem)" becomes its child (KERNEL.md 4)."""
    root = IomemResource()
    dax = root.request_region(0, 99, "dax0.0")
    assert dax is not None
    assert root.request_region(0, 99, "System RAM (kmem)") is None
    dax.busy = False
    child = root.request_region(0, 99, "System RAM (kmem)")
    assert child is not None
    assert child.parent is dax
    assert root.request_region(10, 20, "other") is None
    assert root.request_region(90, 120, "across the end") is None
    assert lines(root) == ["0-99 dax0.0", "  0-99 System RAM (kmem)"]


def test_release_takes_what_is_inside_along_and_is_harmless_twice() -> None:
    root = IomemResource()
    outer = root.request_region(0, 99, "outer", busy=False)
    assert outer is not None
    root.request_region(10, 19, "inner")
    root.release(outer)
    root.release(outer)
    assert lines(root) == []
    assert root.request_region(10, 19, "again") is not None


def test_a_range_with_others_inside_is_reserved_in_pieces() -> None:
    root = IomemResource()
    root.request_region(10, 19, "x")
    root.request_region(30, 39, "x")
    pieces = root.request_region_with_split(5, 45, "RAM buffer")
    assert [(piece.start, piece.end) for piece in pieces] == [(5, 9), (20, 29), (40, 45)]
    assert root.find(20, 29, "RAM buffer") is pieces[1]
    assert root.find(20, 28, "RAM buffer") is None


def holds_together(root: Resource) -> None:
    """No sibling overlaps another, every child is inside its parent."""
    for one, other in zip(root.children, root.children[1:], strict=False):
        assert one.end < other.start
    for child in root.children:
        assert child.parent is root
        assert root.start <= child.start <= child.end <= root.end
        holds_together(child)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20), st.booleans(), st.booleans()), max_size=30))
def test_no_sequence_of_requests_and_releases_breaks_the_tree(requests: list[tuple[int, int, bool, bool]]) -> None:
    root = IomemResource()
    kept: list[Resource] = []
    for start, length, busy, release_one in requests:
        if release_one and kept:
            root.release(kept.pop(start % len(kept)))
        made = root.request_region(start, start + length, "x", busy=busy)
        if made is not None:
            kept.append(made)
        holds_together(root)
