"""The differential without a kernel: what it draws, finds and shrinks. With marker `ci`: on real kernels."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from fakesysfs.kernel.cxl.core.region import CxlRegion
from fakesysfs.lab import images
from fakesysfs.lab.images import KernelImage
from fakesysfs.replay import record
from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel, with_memdevs
from fakesysfs.replay.record import written
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import Target
from tests.differential import __main__ as command
from tests.differential import compare, draw, draw_cxl
from tests.differential.__main__ import Tally
from tests.differential.compare import Answers, Compared
from tests.differential.draw import BLOCK_SIZE, MEMORY, OWN_LAYOUTS, Drawer, Step, script
from tests.differential.draw_cxl import CxlDrawer
from tests.real_kernels import unpacked_kernel

VARIANT = "distribution"


def drawn(profile: str, seed: int, count: int = 8) -> list[Step]:
    return list(Drawer(random.Random(seed), profile, VARIANT).steps(count))  # noqa: S311  a seed


def recorded(steps: Sequence[Step], acts_as: str, claims: str, variant: str = VARIANT) -> Compared:
    """A sequence that a model of one kernel answers, in the place of a real kernel, and its replay."""
    return answered(steps, ModelTarget(boot(machine_and_kernel(acts_as, variant))), claims, variant)


def answered(steps: Sequence[Step], target: Target, claims: str, variant: str) -> Compared:
    """A sequence that a target answers, and its replay."""
    acting = compare.Acting(steps, variant)
    acting.act(target, {"op": "header", "profile": claims, "name": "drawn", "variant": variant})
    return compare.compared(steps, Answers(acting.lines, acting.starts))


@pytest.mark.parametrize("profile", ["7.2-distribution", "7.3-distribution"])
def test_a_script_is_what_was_drawn(profile: str) -> None:
    steps = drawn(profile, 1)
    operations = [operation for step in steps for operation in step.operations]
    assert list(record.parse(script(steps))) == operations
    assert drawn(profile, 1) == steps
    assert drawn(profile, 2) != steps


def test_writes_that_wait_are_one_step_and_a_script() -> None:
    """A part of them cannot be left out: a write that is not there would be asked for its end."""
    seeds = (random.Random(seed) for seed in range(20))  # noqa: S311  a seed
    sequences = [list(Drawer(seed, "7.3-distribution", f"{VARIANT}-policy-online_movable").steps(2)) for seed in seeds]
    begun = [steps[:2] for steps in sequences if len(steps[1].acts) > 1]
    assert begun
    for before, scene in begun:
        kinds = [operation["op"] for operation in scene.acts]
        assert kinds.count("async_start") == kinds.count("async_end") > 0
        assert list(record.parse(script([scene]))) == list(scene.operations)
        answers = recorded([before, scene], "7.3-distribution", "7.3-distribution", f"{VARIANT}-policy-online_movable")
        states = {answer["task"] for answer in answers.lines if answer["op"] == "async_poll"}
        assert states, "each write is looked at"
        assert states <= {"R", "D"}, "each waits, however long the others take"


def test_no_page_of_boot_memory_is_taken_offline() -> None:
    """Whether the kernel holds it depends on the build: the recorded guest's machine has only blocks."""
    drawer = Drawer(random.Random(1), "7.3-distribution", VARIANT)  # noqa: S311  a seed
    at_boot = {int(name[6:]) for name in drawer.target.ls(MEMORY) if re.fullmatch(r"memory\d+", name)}
    drawer.target.sh("modprobe device_dax; modprobe dax_hmem; modprobe kmem", None)
    blocks = {drawer.address() // BLOCK_SIZE for _ in range(200)}
    assert len(blocks) > 10
    assert not blocks & at_boot


def test_of_a_block_in_a_kernel_zone_only_the_last_page_is_taken_offline() -> None:
    """The kernel has taken pages for itself there, the first ones. It takes no page in ZONE_MOVABLE."""
    drawer = Drawer(random.Random(1), "7.3-distribution", VARIANT)  # noqa: S311  a seed
    drawer.target.sh("modprobe device_dax; modprobe dax_hmem; modprobe kmem", None)
    for word in (b"offline", b"online_movable"):
        drawer.target.write_file(f"{MEMORY}/memory60/state", word, os.O_WRONLY)
    drawn_from = [divmod(drawer.address(), BLOCK_SIZE) for _ in range(600)]
    kernel_zone = {offset for block, offset in drawn_from if block not in {60, 0x7000}}
    assert kernel_zone == {BLOCK_SIZE - 0x1000}
    assert {offset for block, offset in drawn_from if block == 60} == {0, 0x1000, BLOCK_SIZE - 0x1000}


class WaitsForEver(Drawer):
    """Draws one write that never returns: a slab page is in the only block of node 2 in a kernel zone."""

    def _act(self) -> Operation:
        return written(f"{MEMORY}/memory64/state", b"offline\n")


def test_a_write_that_never_returns_is_recorded_in_the_background() -> None:
    """As a write alone it has no answer: the kernel's would never come."""
    drawer = WaitsForEver(random.Random(1), "7.3-distribution", f"{VARIANT}-policy-online_movable")  # noqa: S311  a seed
    for words in ("modprobe device_dax; modprobe dax_hmem; modprobe kmem", "rmmod dax_hmem", "modprobe dax_hmem"):
        drawer.target.sh(words, None)
    for word in (b"offline", b"online_kernel"):
        drawer.target.write_file(f"{MEMORY}/memory64/state", word, os.O_WRONLY)
    drawer.target.write_file("/sys/bus/dax/drivers/kmem/bind", b"dax0.0", os.O_WRONLY)
    step = next(iter(drawer.steps(1)))
    assert [act["op"] for act in step.acts] == ["async_start", "async_poll", "async_signal", "async_end"]
    assert step.probes, "what is there after it is compared"
    assert list(record.parse(script([step]))) == list(step.operations)


class NeverSignalled(Drawer):
    """Draws a write that waits, and that nothing ends."""

    def _scene(self) -> tuple[Operation, ...]:
        state = f"{MEMORY}/memory{self.target.sysroot.kernel.pin(2)}/state"
        start: Operation = {"op": "async_start", "id": 1, "path": state, "data": repr("offline\n"), "alarm_s": 0}
        return (start, {"op": "async_end", "id": 1})


def test_a_sequence_ends_before_what_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "SCENES", 1)
    drawer = NeverSignalled(random.Random(1), "7.3-distribution", f"{VARIANT}-policy-online_movable")  # noqa: S311  a seed
    load, files = drawer.steps(8)
    assert [act["op"] for act in (*load.acts, *files.acts)] == ["sh", "note"]


def test_a_call_that_does_not_return_on_the_kernel_is_a_difference() -> None:
    """It is neither left out nor a guest that died."""
    steps = [Step((written(f"{MEMORY}/memory{number}/state", b"offline"),)) for number in (81, 82, 83)]
    found = recorded(steps[:1], "7.3-distribution", "7.3-distribution")
    answers = Answers(found.lines, [1, 2], (steps[1].acts[0], "the write does not return within 20 seconds"))
    blocked = compare.compared(steps, answers)
    assert blocked.first is not None
    assert blocked.first.place == "i=2"
    assert blocked.first.what == f"write {MEMORY}/memory82/state 'offline'"
    assert "does not return" in compare.signature(blocked.first)
    assert list(blocked.until_first) == [Step(step.acts) for step in steps[:2]]


@pytest.mark.parametrize("variant", sorted(OWN_LAYOUTS))
def test_of_an_own_layout_no_block_that_is_there_at_boot_is_written(variant: str) -> None:
    drawer = Drawer(random.Random(1), "7.3-distribution", variant)  # noqa: S311  a seed
    at_boot = {f"{MEMORY}/{name}/state" for name in drawer.target.ls(MEMORY) if name.startswith("memory")}
    written_to = {step.acts[0].get("path") for step in drawer.steps(60)}
    assert not at_boot & written_to
    assert {path for path in written_to if path and path.startswith(f"{MEMORY}/memory")}


@pytest.mark.parametrize("seed", range(2))
def test_a_kernel_like_the_model_has_no_difference(seed: int) -> None:
    found = recorded(drawn("7.3-distribution", seed), "7.3-distribution", "7.3-distribution")
    assert found.first is None
    assert found.report.counted > len(found.steps)


UNPLUG = "/sys/bus/dax/devices/dax0.0/state"
BLOCKS: Operation = {"op": "blocks", "full": False}


def test_a_kernel_that_differs_is_found_and_shrunk() -> None:
    """7.2 has no attribute `state`. Only the load of the modules is needed to show that."""
    load = Step(({"op": "sh", "cmd": "modprobe device_dax; modprobe dax_hmem; modprobe kmem"},), (BLOCKS,))
    needless = [Step((written("/sys/devices/system/memory/memory81/state", b"offline"),), (BLOCKS,)) for _ in range(3)]
    steps = [*needless, load, *needless, Step((written(UNPLUG, b"unplugged\n"),), (BLOCKS,)), *needless]
    found = recorded(steps, "7.2-distribution", "7.3-distribution")
    assert found.first is not None
    assert found.first.what == f"write {UNPLUG} 'unplugged\\n'"
    assert found.until_first[-1] == Step((written(UNPLUG, b"unplugged\n"),))

    wanted = compare.signature(found.first)

    def differs(part: Sequence[Step]) -> bool:
        again = recorded(part, "7.2-distribution", "7.3-distribution").first
        return again is not None and compare.signature(again) == wanted

    shortest = compare.shortest(found.until_first, differs, attempts=40)
    assert [step.acts for step in shortest] == [load.acts, (written(UNPLUG, b"unplugged\n"),)]


def test_attempts_to_shrink_are_bounded() -> None:
    steps = [Step((written(f"/{number}", b""),)) for number in range(50)]
    tried: list[Sequence[Step]] = []

    def differs(part: Sequence[Step]) -> bool:
        tried.append(part)
        return False

    assert compare.shortest(steps, differs, attempts=7) == steps
    assert len(tried) == 7


def test_figures_are_added_to_those_of_earlier_runs(tmp_path: Path) -> None:
    image = KernelImage("7.3~rc7-1~exp1", Path("/x/7.3-amd64"))
    tally = Tally(operations=300, agreed=150, answers=4000, sequences=2, differing=Counter({"x": 1}))
    for seed in (1, 3):
        command.note(tmp_path / "runs.json", image, "distribution", (seed, seed + 1), tally)
    runs = json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))
    assert [run["seeds"] for run in runs] == [[1, 2], [3, 4]]
    assert {key: runs[0][key] for key in ("kernel", "build", "guest", "operations", "agreed", "differing")} == {
        "kernel": "7.3", "build": "Debian 7.3~rc7-1~exp1 (7.3-amd64)", "guest": "distribution",
        "operations": 300, "agreed": 150, "differing": 1,
    }  # fmt: skip


# CXL --------------------------------------------------------------------------------------------------------------


def cxl_drawn(seed: int, guest: str, count: int = 30) -> list[Step]:
    return list(CxlDrawer(random.Random(seed), "7.3-cxl", guest).steps(count))  # noqa: S311  a seed


@pytest.mark.parametrize("guest", ["t1", "t5", "t6"])
def test_a_script_of_cxl_is_what_was_drawn(guest: str) -> None:
    steps = cxl_drawn(1, guest)
    operations = [operation for step in steps for operation in step.operations]
    assert list(record.parse(script(steps))) == operations
    assert cxl_drawn(1, guest) == steps


@pytest.mark.parametrize("guest", sorted(draw_cxl.GUESTS))
def test_a_sequence_of_cxl_binds_regions_and_is_refused_too(guest: str) -> None:
    drawer = CxlDrawer(random.Random(3), "7.3-cxl", guest)  # noqa: S311  a seed
    bound: set[str] = set()
    refused = 0
    for step in drawer.steps(150):
        bound |= {region.name for region in drawer.devices(CxlRegion) if region.driver is not None}
        refused += not step.probes
    assert bound
    assert 150 * 0.2 < refused < 150 * 0.7


def test_nothing_of_cxl_goes_online_in_a_kernel_zone() -> None:
    """A reset of the decoders below such memory kills the kernel."""
    words = [
        act["data"].strip("\n\0 ")
        for seed in range(6)
        for step in cxl_drawn(seed, "t1", 150)
        for act in step.acts
        if act["op"] == "write" and act["path"].endswith(("/state", "/online", "/auto_online_blocks"))
    ]
    assert "online_movable" in words
    assert not {"online", "online_kernel", "1"} & set(words)


def test_devices_in_another_order_have_no_difference(tmp_path: Path) -> None:
    """A guest numbers its memory devices and endpoints by chance: the sequence takes its names."""
    fake = machine_and_kernel("7.3-cxl", "t3")
    memdevs = {
        "mem0": "/sys/devices/pci0000:de/0000:de:00.0/0000:df:00.0/mem0",
        "mem1": "/sys/devices/pci0000:0c/0000:0c:00.0/0000:0d:00.0/mem1",
    }
    machine = with_memdevs(fake.machine, memdevs, [], tmp_path)
    steps = cxl_drawn(2, "t3")
    target = ModelTarget(boot(fake._replace(machine=machine)))
    found = answered(steps, target, "7.3-cxl", "t3")
    assert found.lines[0]["memdevs"] == memdevs
    assert found.first is None, found.first
    drawn_paths = [operation.get("path") for step in steps for operation in step.operations]
    assert [line.get("path") for line in found.lines if line["op"] == "write"] != [
        path for path in drawn_paths if path is not None
    ]


@pytest.fixture(params=images.SERIES)
def image(request: pytest.FixtureRequest) -> KernelImage:
    return unpacked_kernel(request.param)


@pytest.mark.ci
@pytest.mark.timeout(3600)
def test_a_real_kernel_answers_as_the_model(image: KernelImage, tmp_path: Path) -> None:
    """At most four minutes for each kernel, and the time to shrink a difference."""
    arguments = ["--kernel", image.series, "--seed", "1", "--operations", "150", "--minutes", "4", "-o", str(tmp_path)]
    assert command.main(arguments) == 0, "\n".join(path.read_text() for path in tmp_path.glob("*.script"))
