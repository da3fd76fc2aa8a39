"""The tree of physical address ranges that /proc/iomem shows (kernel/resource.c).

A resource that is not busy can have other resources inside it. kmem clears the flag of its
reservation, so the memory that it adds becomes a child of the reservation.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Resource:
    """A named range start..end (bytes, end inclusive). Resources are ordered by start."""

    start: int
    end: int
    name: str
    busy: bool = True
    parent: Resource | None = field(default=None, repr=False)
    children: list[Resource] = field(default_factory=list, repr=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start + 1

    def is_larger(self, start: int, end: int) -> bool:
        """Does a range lie within this one, which is larger?"""
        return self.start <= start and end <= self.end and self.size > end - start + 1

    def __lt__(self, other: Resource) -> bool:
        return self.start < other.start

    def _conflict(self, start: int, end: int) -> Resource | None:
        if start < self.start or end > self.end:
            return self
        return next((child for child in self.children if child.start <= end and start <= child.end), None)


class IomemResource(Resource):
    """The root, `iomem_resource`."""

    def __init__(self) -> None:
        super().__init__(0, (1 << 64) - 1, "PCI mem", busy=False)

    def request_region(self, start: int, end: int, name: str, *, busy: bool = True) -> Resource | None:
        """Reserve start..end in the innermost resource around it that is not busy.

        Returns None on a conflict (__request_region).
        """
        parent: Resource = self
        while True:
            conflict = parent._conflict(start, end)  # noqa: SLF001  the same tree
            if conflict is None:
                resource = Resource(start, end, name, busy, parent)
                insort(parent.children, resource)
                return resource
            if conflict is parent or conflict.busy:
                return None
            parent = conflict

    def request_region_with_split(self, start: int, end: int, name: str) -> list[Resource]:
        """Reserve the free parts of start..end at the top level (reserve_region_with_split)."""
        pieces: list[Resource] = []
        at = start
        for child in list(self.children):
            if child.end < at or child.start > end:
                continue
            if child.start > at:
                piece = self.request_region(at, child.start - 1, name)
                pieces += [piece] if piece else []
            at = child.end + 1
        if at <= end:
            piece = self.request_region(at, end, name)
            pieces += [piece] if piece else []
        return pieces

    def find(self, start: int, end: int, name: str) -> Resource | None:
        """The resource of exactly this range and name, at any depth."""
        for _, resource in self.walk():
            if (resource.start, resource.end, resource.name) == (start, end, name):
                return resource
        return None

    def release(self, resource: Resource) -> None:
        """Remove a resource and its children from the tree (remove_resource, release_region)."""
        if resource.parent is not None:
            resource.parent.children.remove(resource)
            resource.parent = None

    def walk(self) -> Iterator[tuple[int, Resource]]:
        """(depth, resource) in the order of /proc/iomem."""

        def below(parent: Resource, depth: int) -> Iterator[tuple[int, Resource]]:
            for child in parent.children:
                yield depth, child
                yield from below(child, depth + 1)

        yield from below(self, 0)

    # Windows and regions of CXL --------------------------------------------------------------------------------------

    def insert(self, start: int, end: int, name: str, parent: Resource | None = None) -> Resource:
        """Insert a resource that is not busy; what lies in it becomes its child (insert_resource).

        `parent` is the resource that it goes into; None means the innermost larger one.
        """
        if parent is None:
            parent = self
            while inner := next((child for child in parent.children if child.is_larger(start, end)), None):
                parent = inner
        resource = Resource(start, end, name, busy=False, parent=parent)
        resource.children = [child for child in parent.children if start <= child.start and child.end <= end]
        for child in resource.children:
            parent.children.remove(child)
            child.parent = resource
        insort(parent.children, resource)
        return resource

    def remove(self, resource: Resource) -> None:
        """Remove a resource; what lies in it goes to the one around it (remove_resource)."""
        parent = resource.parent
        assert parent is not None
        parent.children.remove(resource)
        for child in resource.children:
            child.parent = parent
            insort(parent.children, child)
        resource.children = []
        resource.parent = None

    def free_within(self, resource: Resource, size: int, align: int) -> int | None:
        """The start of the first aligned hole of that size in a resource, None if there is no such hole.

        alloc_free_mem_region.
        """
        at = -(-resource.start // align) * align
        for child in resource.children:
            if child.start >= at + size:
                break
            at = max(at, -(-(child.end + 1) // align) * align)
        return at if at + size - 1 <= resource.end else None
