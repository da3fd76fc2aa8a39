"""Objects are restored to how they were: every kind of thing that can change."""

from __future__ import annotations

from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fakesysfs import machine
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import find_profile
from fakesysfs.machine import builtin
from fakesysfs.ops.checkpoints import CannotCheckpointError, Checkpoints
from fakesysfs.ops.sched import run


class Plain:
    """An instance with a dict."""

    def __init__(self) -> None:
        self.value: Any = 1
        self.inside: Any = None


@dataclass(slots=True, eq=False)
class Slotted:
    """An instance with slots."""

    value: Any = 1
    maybe: Any = field(init=False)


class Both(Slotted):
    """An instance with both."""


@dataclass(frozen=True)
class Frozen:
    """What refers to something that changes."""

    inside: list[int]


def everything(root: Root) -> str:
    return repr(
        (
            *(root.value, root.dict, root.list, root.set, root.deque, root.default),
            *(root.slotted.value, hasattr(root.slotted, "maybe"), root.both.value, vars(root.both)),
            *(root.frozen.inside, root.count(0), root.nested, list(vars(root))),
        )
    )


def counter() -> Callable[[int], int]:
    count = 0

    def add(number: int) -> int:
        nonlocal count
        count += number
        return count

    return add


class Root(Plain):
    """One of each."""

    def __init__(self) -> None:
        super().__init__()
        self.dict: dict[Any, Any] = {"a": 1, "b": 2}
        self.list = [1, 2]
        self.set = {1, 2}
        self.deque = deque([1, 2], maxlen=3)
        self.default = defaultdict(list, a=[1])
        self.slotted = Slotted()
        self.both = Both()
        self.frozen = Frozen([1])
        self.count = counter()
        self.nested = {"a": ({"b": [1]},)}


def rename(root: Root) -> None:
    """The values stay as they are."""
    root.dict["b" if "c" in root.dict else "c"] = root.dict.popitem()[1]


CHANGES: list[Callable[[Root], object]] = [
    lambda root: setattr(root, "value", 2),
    lambda root: setattr(root, "more", 2),
    lambda root: root.dict.update(c=3),
    lambda root: root.dict.pop("a", None),
    lambda root: root.dict.update(a=root.dict.pop("a")),  # another order
    rename,
    lambda root: root.list.append(3),
    lambda root: root.list.reverse(),
    lambda root: root.set.add(3),
    lambda root: root.set.discard(1),
    lambda root: root.deque.extend([3, 4]),
    lambda root: root.default["b"].append(1),
    lambda root: root.default["a"].append(1),
    lambda root: setattr(root.slotted, "value", 2),
    lambda root: setattr(root.slotted, "maybe", 2),
    lambda root: setattr(root.both, "value", 2),
    lambda root: setattr(root.both, "other", 2),
    lambda root: root.frozen.inside.append(1),
    lambda root: root.count(1),
    lambda root: root.nested["a"][0]["b"].append(2),
    lambda root: setattr(root, "list", []),
]


@pytest.mark.parametrize("change", CHANGES)
def test_each_kind_of_thing_is_put_back(change: Callable[[Root], object]) -> None:
    root = Root()
    checkpoints = Checkpoints([root])
    before, parts = everything(root), dict(vars(root))
    change(root)
    number = checkpoints.take()
    after = everything(root)
    assert after != before
    change(root)
    checkpoints.restore(0)
    assert everything(root) == before
    assert all(vars(root)[name] is part for name, part in parts.items())
    checkpoints.restore(number)
    assert everything(root) == after


def test_a_container_that_is_replaced_by_an_equal_one() -> None:
    root = Root()
    checkpoints, before = Checkpoints([root]), root.list
    root.list = [1, 2]
    checkpoints.take()
    root.list.append(3)
    checkpoints.restore(0)
    assert root.list is before
    assert root.list == [1, 2]
    root.list = [1, 2]
    checkpoints.restore(0)
    assert root.list is before  # from the first change on, identity counts


def test_what_was_made_later_is_put_back_too() -> None:
    root = Plain()
    checkpoints = Checkpoints([root])
    root.inside = made = Plain()
    made.inside = [1]
    first = checkpoints.take()
    made.inside.append(2)
    second = checkpoints.take()
    made.inside = None
    root.inside = Plain()
    checkpoints.restore(first)
    assert root.inside is made
    assert made.inside == [1]
    checkpoints.restore(0)
    assert vars(root) == {"value": 1, "inside": None}
    checkpoints.restore(second)
    assert vars(root) == {"value": 1, "inside": made}
    assert made.inside == [1, 2]


def test_another_way_from_a_checkpoint() -> None:
    root = Plain()
    checkpoints = Checkpoints([root])
    root.value = 2
    first = checkpoints.take()
    root.inside = [1]
    checkpoints.take()
    checkpoints.restore(first)
    root.inside = {"other": 1}
    second = checkpoints.take()
    root.inside["other"] = 2
    checkpoints.restore(second)
    assert root.inside == {"other": 1}
    checkpoints.restore(0)
    assert (root.value, root.inside) == (1, None)


def test_what_later_checkpoints_kept_is_let_go() -> None:
    root = Plain()
    checkpoints = Checkpoints([root])
    for number in range(10):
        root.inside = [[number] for _ in range(100)]
        checkpoints.take()
        checkpoints.restore(0)
    assert len(checkpoints._objects) < 200


def test_no_checkpoint_while_a_coroutine_is_under_way() -> None:
    async def wait() -> None:
        """Never begins."""

    root = Plain()
    checkpoints = Checkpoints([root])
    root.value = 2
    root.inside = [[3], wait()]
    with pytest.raises(CannotCheckpointError, match="coroutine"):
        checkpoints.take()
    root.inside.pop().close()
    number = checkpoints.take()
    root.inside[0].append(4)
    checkpoints.restore(number)
    assert (root.value, root.inside) == (2, [[3]])
    checkpoints.restore(0)
    assert (root.value, root.inside) == (1, None)


@pytest.mark.parametrize("unknown", [OrderedDict(), bytearray(), array("Q"), iter([1])])
def test_what_is_not_known_is_refused(unknown: object) -> None:
    root = Plain()
    root.inside = unknown
    with pytest.raises(CannotCheckpointError, match="cannot be restored"):
        Checkpoints([root])


def test_constant_things_are_left_alone() -> None:
    root, constant = Plain(), Slotted()
    root.inside = constant
    constant.value = [1]
    checkpoints = Checkpoints([root], (Slotted,))
    constant.value.append(2)
    checkpoints.restore(0)
    assert constant.value == [1, 2]


@pytest.mark.parametrize("name", sorted(builtin()))
def test_all_machines_can_be_put_back(name: str) -> None:
    kernel = Kernel(machine.load(name).setup(), find_profile("hotplug-v3"))
    run(kernel.boot())
    checkpoints = Checkpoints([kernel])
    before = list(kernel.memory_blocks.runs)
    kernel.shut_down()
    kernel.memory_blocks.runs.clear(0, 1 << 30)
    checkpoints.restore(0)
    assert not kernel.gone
    assert list(kernel.memory_blocks.runs) == before
