"""`fakesysfs.testing.explore`: every order of programs on a machine in process."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import textwrap
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import trio

from fakesysfs.testing import Exploration, ExploreHandle, RunningMachine, explore, explore_async
from fakesysfs.testing.order_runner import Program

MEMORY = "/sys/devices/system/memory"
POLICY = f"{MEMORY}/auto_online_blocks"
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
STATE = f"{MEMORY}/memory70/state"


def writer(path: str, *words: str) -> Program:
    """A program that writes `words`, each in a step."""

    async def write(m: ExploreHandle) -> None:
        for word in words:
            await m.write(path, word)

    return write


async def write_online_first(m: ExploreHandle) -> None:
    """For executors, which need names."""
    for word in ("online", "offline") * 2:
        await m.write(POLICY, word)


async def write_online_kernel_first(m: ExploreHandle) -> None:
    """For executors, which need names."""
    for word in ("online_kernel", "online_movable") * 2:
        await m.write(POLICY, word)


async def unplug(m: ExploreHandle) -> None:
    """Take the device away as a whole."""
    await m.write(HOTPLUG, "unplug")


def schedules(exploration: Exploration) -> list[str]:
    return [failure.schedule for failure in exploration.failures]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_writes_of_one_attribute(steps: int) -> None:
    found = explore(
        [
            writer(POLICY, *(("online", "offline") * 2)[:steps]),
            writer(POLICY, *(("online_kernel", "online_movable") * 2)[:steps]),
        ]
    )
    assert found.explored == math.comb(2 * steps, steps)
    assert (found.cut, found.failed, found.complete, found.preemptions) == (0, 0, True, None)
    found.assert_ok()


def test_check_then_act_is_a_race() -> None:
    async def remover(m: ExploreHandle) -> None:
        if await m.read(STATE) == "online\n":
            await m.write(STATE, "offline")

    async def other(m: ExploreHandle) -> None:
        if await m.read(STATE) == "online\n":
            await m.write(STATE, "offline")

    everything = explore([remover, other], reduction=False)
    assert (everything.explored, everything.failed, everything.complete) == (6, 4, True)
    found = explore([remover, other])
    assert (found.explored, found.failed, found.complete) == (4, 2, True)  # two reads commute
    assert schedules(found)[0] == "A B B A"
    first = found.failures[0]
    assert first.steps[-1].result == "EINVAL"
    assert first.steps[-1].why == "memory70 is already offline [state_store]"
    assert "memory70: online Movable -> offline" in [change for step in first.steps for change in step.changed]
    with pytest.raises(AssertionError, match=f'schedule="{first.schedule}"'):
        found.assert_ok()


def test_the_race_mended() -> None:
    async def remover(m: ExploreHandle) -> None:
        try:
            await m.write(STATE, "offline")
        except OSError:
            if await m.read(STATE) != "offline\n":
                raise

    found = explore([remover, remover])
    assert found.complete
    assert found.explored == 2  # one of them is refused, and looks again
    found.assert_ok()


def test_a_failing_order_again() -> None:
    async def remover(m: ExploreHandle) -> None:
        if await m.exists(HOTPLUG) and await m.read(STATE) == "online\n":
            await m.write(STATE, "offline")

    failures = explore([remover, remover]).failures
    assert failures
    for failure in failures:
        for _ in range(2):
            again = explore([remover, remover], schedule=failure.schedule)
            assert (again.explored, again.failed) == (1, 1)
            assert again.failures == [failure]


def test_a_schedule_that_does_not_fit() -> None:
    found = explore([unplug, unplug], schedule="A A B")
    assert (found.explored, found.cut, found.complete) == (0, 1, False)
    assert "step 2 should be one of A, and is one of B" in str(found)


def test_each_answer_of_reads_and_listings_occurs() -> None:
    seen: set[tuple[object, ...]] = set()

    async def look(m: ExploreHandle) -> None:
        there = await m.exists(STATE)
        names = await m.ls(MEMORY)
        try:
            mode: int | None = (await m.stat(STATE)).st_mode & 0o777
        except FileNotFoundError:
            mode = None
        seen.add((there, "memory70" in names, mode))

    async def unplug_and_plug(m: ExploreHandle) -> None:
        await m.write(HOTPLUG, "unplug")
        await m.write(HOTPLUG, "online_movable")

    found = explore([look, unplug_and_plug])
    assert found.explored == math.comb(5, 2)
    found.assert_ok()
    for position in range(3):
        assert len({answers[position] for answers in seen}) == 2


# Steps that commute ---------------------------------------------------------------------------------------------------


def flip(block: int, online: str) -> Program:
    """Take a block offline and put it back."""
    return writer(f"{MEMORY}/memory{block}/state", "offline", online)


def test_blocks_of_two_nodes_have_one_order() -> None:
    programs = [flip(70, "online_movable"), flip(50, "online")]
    found = explore(programs)
    assert (found.explored, found.complete) == (1, True)
    assert explore(programs, reduction=False).explored == 6


def test_blocks_of_one_node_conflict() -> None:
    """By the span of the zone, which decides where a block can go."""
    assert explore([flip(70, "online_movable"), flip(71, "online_movable")]).explored == 6


DAX0_0 = "/sys/bus/dax/devices/dax0.0"


@pytest.mark.parametrize(
    ("operation", "path", "orders"),
    [
        *(("read", f"{DAX0_0}/{name}", 1) for name in ("size", "align", "target_node", "hotplug", "mapping0/start")),
        *(("ls", path, 1) for path in (DAX0_0, MEMORY, "/sys/devices/system/node/node2", "/sys/bus/dax/drivers/kmem")),
        *(("exists", f"{MEMORY}/{name}", 1) for name in ("memory70", "memory999")),
        ("stat", f"{DAX0_0}/driver", 1),
        ("read", "/proc/iomem", 1),
        ("read", "/proc/modules", 1),
        ("read", "/sys/devices/system/node/node1/meminfo", 1),
        ("read", "/sys/devices/system/node/node2/meminfo", 3),
        ("read", f"{MEMORY}/memory71/valid_zones", 1),
        ("read", "/proc/meminfo", 3),
        ("read", STATE, 3),
    ],
)
def test_what_commutes_with_a_change_of_a_block(operation: str, path: str, orders: int) -> None:
    async def look(m: ExploreHandle) -> None:
        await getattr(m, operation)(path)

    assert explore([flip(70, "online_movable"), look]).explored == orders


@pytest.mark.parametrize(
    ("path", "orders"),
    [
        (f"{DAX0_0}/driver", 3),  # there, absent, there again
        (f"{DAX0_0}/size", 1),
        ("/sys/bus/dax/devices/dax0.1", 1),
        (f"{MEMORY}/memory50/state", 1),
    ],
)
def test_what_commutes_with_unbind_and_bind(path: str, orders: int) -> None:
    async def look(m: ExploreHandle) -> None:
        await m.exists(path)

    async def unbind_and_bind(m: ExploreHandle) -> None:
        await m.write(HOTPLUG, "unplug")
        await m.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")
        await m.write("/sys/bus/dax/drivers/kmem/bind", "dax0.0")

    assert explore([unbind_and_bind, look]).explored == orders


def test_refused_writes_commute() -> None:
    async def refused(m: ExploreHandle) -> None:
        with contextlib.suppress(OSError):
            await m.write(STATE, "nonsense")

    assert explore([refused, refused]).explored == 1


def test_the_order_of_uevents_matters_to_those_who_read_it() -> None:
    seen = set()

    def look(machine: RunningMachine) -> None:
        seen.add(tuple(uevent.devpath for uevent in machine.uevents[-4:]))

    found = explore([flip(70, "online_movable"), flip(50, "online")], check=look)
    assert found.explored == len(seen) == 6


# Inside operations ----------------------------------------------------------------------------------------------------


async def read_hotplug(m: ExploreHandle) -> None:
    """One step."""
    await m.read(HOTPLUG)


def test_inside_an_unplug() -> None:
    """32 blocks: a step before each of them and one after, and a reader that looks in at each place."""
    assert explore([unplug, read_hotplug]).explored == 2
    found = explore([unplug, read_hotplug], inside=True, reduction=False)
    assert (found.explored, found.complete) == (34, True)


def test_steps_inside_of_operations_commute_too() -> None:
    """What the reader sees changes once, at the end."""
    found = explore([unplug, read_hotplug], inside=True)
    assert (found.explored, found.complete) == (2, True)


def test_inside_two_unplugs() -> None:
    """The second waits for the device's lock, wherever it begins."""
    found = explore([unplug, unplug], inside=True, reduction=False)
    assert (found.explored, found.failed, found.complete) == (66, 0, True)


def test_a_limit() -> None:
    found = explore([unplug, read_hotplug], inside=True, limit=5, reduction=False)
    assert (found.explored, found.complete) == (5, False)
    assert "A limit cut the search short" in str(found)


def test_a_bound() -> None:
    found = explore([write_online_first, write_online_kernel_first], preemptions=1)
    assert (found.explored, found.complete, found.preemptions) == (2 + 6, False, 1)
    assert "all with at most 1 preemption" in str(found)


# How orders end -------------------------------------------------------------------------------------------------------


def test_check_and_setup() -> None:
    def without_memory70(machine: RunningMachine) -> None:
        machine.write(STATE, "offline")

    def memory70_is_online(machine: RunningMachine) -> bool:
        return machine.read(STATE) == "online\n"

    async def online(m: ExploreHandle) -> None:
        await m.write(STATE, "online")

    async def offline_if_online(m: ExploreHandle) -> None:
        if await m.read(STATE) == "online\n":
            await m.write(STATE, "offline")

    found = explore([online, offline_if_online], setup=without_memory70, check=memory70_is_online)
    assert (found.explored, found.failed) == (2, 1)
    assert found.failures[0].schedule == "A B B"
    assert found.failures[0].why == "memory70_is_online returned False"


async def unbind(m: ExploreHandle) -> None:
    await m.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")


def test_an_order_that_wedges_the_device() -> None:
    """On 7.2 the driver leaks memory that is online when it is unbound."""

    async def offline_all(m: ExploreHandle) -> None:
        for block in (32, 33):
            await m.write(f"{MEMORY}/memory{block}/state", "offline")

    machine = Path(__file__).parents[1] / "explore/two-devices.toml"
    found = explore([offline_all, unbind], machine=machine, kernel="7.2")
    assert found.complete
    assert 0 < found.failed < found.explored
    assert {failure.why for failure in found.failures} == {
        "the device is wedged: memory32 to 33 cannot be taken away any more: no driver has it"
    }
    assert found.failures[0].schedule in found.text
    allowed = explore([offline_all, unbind], machine=machine, kernel="7.2", allow_wedged=True)
    assert (allowed.failed, allowed.complete) == (0, True)


def test_what_was_wedged_after_the_setup_fails_no_order() -> None:
    def wedge(machine: RunningMachine) -> None:
        machine.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")

    assert explore([writer(POLICY, "online")], setup=wedge).failed == 0


def test_a_check_that_raises() -> None:
    def check(machine: RunningMachine) -> None:
        assert machine.read(POLICY) == "online\n", "the other one was last"

    found = explore([writer(POLICY, "online"), writer(POLICY, "offline")], check=check)
    assert (found.explored, found.failed) == (2, 1)
    assert found.failures[0].why.startswith("check: AssertionError: the other one was last")


def test_the_other_program_goes_on_when_one_has_failed() -> None:
    async def broken(m: ExploreHandle) -> None:
        await m.read(POLICY)
        raise RuntimeError("no")

    found = explore([broken, writer(POLICY, "online", "offline")])
    assert (found.explored, found.failed) == (3, 3)
    assert found.failures[0].why == "broken raised RuntimeError: no"


def test_a_program_that_waits_for_ever() -> None:
    def pin(machine: RunningMachine) -> None:
        machine.pin(70)

    found = explore([writer(STATE, "offline")], setup=pin)
    assert found.failed == 1
    assert "never ends: it waits for" in found.failures[0].why


def test_programs_that_wait_for_time() -> None:
    def slow(machine: RunningMachine) -> None:
        machine.set_latency(offline_block=3600)

    found = explore([writer(STATE, "offline"), writer(f"{MEMORY}/memory71/state", "offline")], setup=slow)
    assert found.complete
    assert found.explored >= 2
    found.assert_ok()


def test_a_program_that_polls_gives_way() -> None:
    async def wait_for_unplug(m: ExploreHandle) -> None:
        while await m.exists(STATE):
            pass

    found = explore([wait_for_unplug, unplug])
    assert found.complete
    found.assert_ok()
    assert found.explored == 4  # unplug comes before, or after one, two or three looks


def test_a_program_that_polls_for_ever() -> None:
    async def wait_for_unplug(m: ExploreHandle) -> None:
        while await m.exists(STATE):
            pass

    found = explore([wait_for_unplug])
    assert (found.explored, found.failed) == (1, 1)
    why = f"wait_for_unplug does not end: it repeats exists {STATE}: present, and nothing changes"
    assert found.failures[0].why == why
    assert "this step 99 times more" in str(found)


def test_a_program_that_tries_again_for_ever() -> None:
    """A refused write changes nothing."""

    async def try_again(m: ExploreHandle) -> None:
        while True:
            await m.read(POLICY)
            with contextlib.suppress(OSError):
                await m.write(STATE, "nonsense")

    for reduction in (True, False):
        found = explore([try_again, unplug], reduction=reduction)
        assert found.complete
        assert found.failed == found.explored
        assert f"it repeats read {POLICY}: online_movable, write {STATE}: ENOENT" in found.failures[0].why
        assert "these 2 steps " in str(found)


def test_an_order_that_is_too_long() -> None:
    async def flip(m: ExploreHandle) -> None:
        while True:
            await m.write(POLICY, "online")

    found = explore([flip], longest=50)
    assert (found.explored, found.cut, found.complete) == (0, 1, False)
    assert "1 order given up: one has 50 steps" in str(found)


def test_nothing_of_one_order_is_left_in_the_next() -> None:
    seen = set()

    async def look(m: ExploreHandle) -> None:
        seen.add((await m.read(POLICY), await m.read(STATE), (await m.read("/control/kmsg.jsonl")).count("\n")))

    async def change(m: ExploreHandle) -> None:
        await m.write(STATE, "offline")
        await m.write(POLICY, "online")

    explore([look])
    (fresh,) = seen
    found = explore([look, change], reduction=False)
    assert found.explored == math.comb(5, 2)
    assert fresh in seen
    seen.clear()
    explore([look])
    assert seen == {fresh}


# Wrong use ------------------------------------------------------------------------------------------------------------


def test_a_program_that_awaits_something_else() -> None:
    async def sleeper(_m: ExploreHandle) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(TypeError, match="a program may await its handle's calls only"):
        explore([sleeper])


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="toaster"):
        explore([unplug], machine="toaster")
    with pytest.raises(ValueError, match=r"9\.9"):
        explore([unplug], kernel="9.9")


async def test_where_an_event_loop_runs() -> None:
    with pytest.raises(RuntimeError, match="await explore_async"):
        explore([unplug])
    found = await explore_async([unplug, read_hotplug], inside=True, reduction=False)
    assert found.explored == 34


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_an_executor(pool: str) -> None:
    executor: Executor = (
        ThreadPoolExecutor(2) if pool == "threads" else ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    )
    with executor:
        found = explore([write_online_first, write_online_kernel_first], executor=executor)
        assert (found.explored, found.failed, found.complete) == (70, 0, True)
        limited = explore([write_online_first, write_online_kernel_first], executor=executor, limit=40)
        assert not limited.complete
        assert 40 <= limited.explored < 70


def test_pytest_shows_the_table(tmp_path: Path) -> None:
    test = tmp_path / "test_race.py"
    test.write_text(
        textwrap.dedent("""
            from fakesysfs.testing import explore

            STATE = "/sys/devices/system/memory/memory70/state"

            async def remover(m):
                if await m.read(STATE) == "online\\n":
                    await m.write(STATE, "offline")

            def test_race():
                explore([remover, remover]).assert_ok()
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    assert "1 failed" in shown
    assert "of 4 orders fail. Explored: all orders, but for steps that commute (complete)" in shown
    assert "step  who  command" in shown
    assert 'schedule="A A B B"' in shown or 'schedule="A B' in shown
    assert "exploration.py" not in shown  # no frame of ours
