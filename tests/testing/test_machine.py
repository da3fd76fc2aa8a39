"""The machine in process: what a unit test of a tool may count on."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from fakesysfs.testing import Machine, WaitsForeverError

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
MEMORY = "/sys/devices/system/memory"
BLOCKS = 32


def test_read_write_and_names() -> None:
    with Machine() as machine:
        assert machine.read(HOTPLUG) == "online_movable\n"
        assert machine.write(HOTPLUG, b"unplug\n") == len("unplug\n")
        assert machine.read(HOTPLUG) == "unplugged\n"
        assert not machine.exists(f"{MEMORY}/memory64")
        assert machine.ls("/sys/bus/dax/drivers/kmem").count("dax0.0") == 1
        assert machine.readlink("/sys/bus/dax/devices/dax0.0").startswith("../../../devices/")
        assert machine.stat(HOTPLUG).st_size == 4096
        assert machine.stat("/dev/dax0.0").st_rdev == os.makedev(254, 0)
        assert machine.read(Path(HOTPLUG)) == "unplugged\n"


def test_refusals_are_os_errors_with_a_reason() -> None:
    with Machine() as machine:
        with pytest.raises(FileNotFoundError):
            machine.read("/sys/nothing")
        with pytest.raises(PermissionError):
            machine.write(f"{MEMORY}/block_size_bytes", "1")
        machine.set_unmovable(70)
        with pytest.raises(OSError, match="busy") as refused:
            machine.write(HOTPLUG, "unplug")
        assert refused.value.errno == errno.EBUSY
        assert refused.value.__notes__ == ["memory70 has an unmovable page [start_isolate_page_range]"]
        last = machine.refused[-1]
        assert (last.data, last.errno, last.why) == (b"unplug", "EBUSY", "memory70 has an unmovable page")
        assert (last.pid, last.where) == (os.getpid(), "start_isolate_page_range")


def test_another_user() -> None:
    with Machine(uid=1000) as machine:
        with pytest.raises(PermissionError):
            machine.write(HOTPLUG, "unplug")
        machine.set_unmovable(70)


def test_log_and_uevents() -> None:
    with Machine() as machine:
        before = len(machine.uevents)
        machine.write(f"{MEMORY}/memory64/state", "offline")
        event = machine.uevents[before]
        assert (event.action, event.devpath) == ("offline", "/devices/system/memory/memory64")
        assert (event.subsystem, event.sequence) == ("memory", before + 1)
        assert [event.sequence for event in machine.uevents] == list(range(1, before + 2))
        machine.write("/sys/bus/dax/devices/dax0.0/uevent", "change")
        assert machine.uevents[-1].environment["DRIVER"] == "kmem"
        assert machine.log[-1].level == 6
        assert machine.log[-1].seconds == 0


def test_time_is_virtual() -> None:
    with Machine() as machine:
        machine.set_latency(offline_block=100)
        machine.trace_writes()
        machine.write(HOTPLUG, "unplug")
        assert machine.now == 100 * BLOCKS
        assert machine.log[-1].seconds == machine.now
        (write,) = machine.writes
        assert (write.began, write.seconds, write.result) == (0, machine.now, "6")


def test_latency_of_a_machine_file(tmp_path: Path) -> None:
    """A reset brings it back."""
    file = tmp_path / "slow.toml"
    file.write_text('extends = "default"\n[latency]\nonline_block = 3\noffline_block = 0.5\n')
    with Machine(file) as machine:
        machine.write(HOTPLUG, "unplug")
        assert machine.now == 0.5 * BLOCKS
        machine.write(HOTPLUG, "online")
        assert machine.now == 3.5 * BLOCKS
        machine.set_latency(online_block=0, offline_block=0)
        machine.reset()
        machine.write(HOTPLUG, "unplug")
        assert machine.now == 4 * BLOCKS


def test_what_would_hang_is_said() -> None:
    with Machine() as machine:
        machine.pin(70)
        with pytest.raises(WaitsForeverError, match="do_migrate_range"):
            machine.write(HOTPLUG, "unplug")
        assert machine.read(HOTPLUG) == "online_movable\n", "the writer was killed, everything was rolled back"
        with pytest.raises(WaitsForeverError, match="follow"):
            machine.read("/control/kmsg_follow")


def test_a_write_beside_others() -> None:
    with Machine() as machine:
        machine.pin(70)
        machine.trace_writes()
        started = machine.start_write(HOTPLUG, "unplug")
        assert not started.finished
        assert machine.read(f"{MEMORY}/memory70/state") == "going-offline\n"
        assert (machine.writes[0].seconds, machine.writes[0].result) == (None, "")
        started.interrupt()
        with pytest.raises(InterruptedError):
            started.result()
        started = machine.start_write(HOTPLUG, "unplug")
        machine.advance(3600)
        assert not started.finished
        machine.unpin(70)
        assert started.result() == len("unplug")
        assert [write.result for write in machine.writes] == ["EINTR", "6"]


def test_reset() -> None:
    with Machine() as machine:
        before = machine.uevents
        machine.pin(70)
        machine.set_latency(offline_block=1)
        machine.write(f"{MEMORY}/memory64/state", "offline")
        with pytest.raises(OSError, match="Invalid"):
            machine.write(HOTPLUG, "nonsense")
        machine.reset()
        assert machine.read(HOTPLUG) == "online_movable\n"
        assert machine.uevents == before
        assert machine.refused == []
        machine.write(HOTPLUG, "unplug")
        assert machine.now == 1


@pytest.mark.parametrize(
    ("machine", "kernel", "why"),
    [("none", "7.2", "none"), ("default", "6.6", r"unknown kernel '6\.6' \(choose from hotplug-v3, .*7\.3\)")],
)
def test_what_is_not_there(machine: str, kernel: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Machine(machine, kernel)


def test_what_happened_since() -> None:
    with Machine() as machine:
        machine.write(f"{MEMORY}/memory64/state", "offline")
        seen = machine.watch()
        assert (seen.uevents, seen.log, seen.refused, seen.writes) == ([], [], [], [])
        machine.trace_writes()
        machine.write(f"{MEMORY}/memory65/state", "offline")
        with pytest.raises(OSError, match="Invalid"):
            machine.write(f"{MEMORY}/memory65/state", "offline")
        assert [event.devpath[-2:] for event in seen.uevents] == ["65"]
        assert [write.result for write in seen.writes] == ["7", "EINVAL"]
        assert [refusal.errno for refusal in seen.refused] == ["EINVAL"]
        later = machine.watch()
        assert (later.uevents, later.refused, later.writes) == ([], [], [])
        machine.trace_writes()
        machine.write(HOTPLUG, "unplug")
        assert len(later.writes) == 1, "the list was emptied meanwhile"
        machine.reset()
        assert later.uevents == machine.uevents
        assert later.log == machine.log
        assert later.refused == []


def test_lists_that_dropped_their_beginning() -> None:
    with Machine() as machine:
        for _ in range(1030):
            with pytest.raises(OSError, match="Invalid"):
                machine.write(HOTPLUG, "nonsense")
        assert len(machine.refused) == 1024
        seen = machine.watch()
        for word in ("a", "b"):
            with pytest.raises(OSError, match="Invalid"):
                machine.write(HOTPLUG, word)
        assert [refusal.data for refusal in seen.refused] == [b"a", b"b"]


def test_waiting_lets_virtual_time_pass() -> None:
    with Machine() as machine:
        machine.set_latency(offline_block=100)
        seen = machine.watch()
        started = machine.start_write(HOTPLUG, "unplug")
        event = seen.wait_for_uevent("offline", "*/memory66", timeout=1000)
        assert event.devpath == "/devices/system/memory/memory66"
        assert machine.now == 300
        assert seen.wait_for_uevent("offline", "*/memory66") == event, "it has happened"
        assert machine.now == 300
        with pytest.raises(TimeoutError, match=r"no uevent remove@\* in 50 seconds, but offline@/devices/system"):
            seen.wait_for_uevent("remove", timeout=50)
        assert machine.now == 350
        assert not started.finished
        machine.wait_until(lambda: started.finished, timeout=10000)
        assert machine.now == 100 * BLOCKS
        assert seen.wait_for_log("^Policy zone: Normal").level == 6
        with pytest.raises(TimeoutError, match="no message 'nonsense' in 3 seconds, but"):
            seen.wait_for_log("nonsense", timeout=3)
        with pytest.raises(TimeoutError, match="peace did not come true in 1e"):
            machine.wait_until(lambda: False, timeout=1e6, what="peace")


async def test_waiting_under_trio(autojump_clock: trio.testing.MockClock) -> None:
    async with Machine() as machine:
        machine.set_latency(offline_block=100)
        seen = machine.watch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.write, HOTPLUG, "unplug")
            event = await seen.wait_for_uevent("offline", "*/memory66")
            assert event.sequence == seen.uevents[-1].sequence
            assert trio.current_time() == 300
            assert (await seen.wait_for_uevent("remove", "*/memory/*")).devpath.endswith("/memory64")
            assert trio.current_time() == 100 * BLOCKS
            await seen.wait_for_log("Policy zone")
        with trio.move_on_after(5) as scope:
            await seen.wait_for_uevent("change")
        assert scope.cancelled_caught
        assert len(seen.uevents) > 64


async def test_under_trio(autojump_clock: trio.testing.MockClock) -> None:
    """Time is the loop's: a mock clock makes an hour short."""
    async with Machine(kernel="7.3") as machine:
        machine.set_latency(offline_block=100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.write, "/sys/bus/dax/devices/dax0.0/state", "unplugged")
            await trio.sleep(150)
            states = [await machine.read(f"{MEMORY}/memory{block}/state") for block in (64, 65, 66)]
        assert trio.current_time() == 100 * BLOCKS
        assert states == ["offline\n", "going-offline\n", "online\n"]
        assert machine.log[-1].seconds == pytest.approx(100 * BLOCKS)


async def test_cancelled_under_trio(autojump_clock: trio.testing.MockClock) -> None:
    """To cancel is to kill: the kernel undoes what it began."""
    async with Machine() as machine:
        machine.pin(70)
        with trio.move_on_after(60) as scope:
            await machine.write(HOTPLUG, "unplug")
        assert scope.cancelled_caught
        assert machine.refused[-1].errno == "EINTR"
        assert await machine.read(HOTPLUG) == "online_movable\n"
        with pytest.raises(OSError, match="Invalid"):
            await machine.write(HOTPLUG, "nonsense")


def test_under_asyncio() -> None:
    async def main() -> str:
        async with Machine() as machine:
            machine.pin(70)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(machine.write(HOTPLUG, "unplug"), 0.01)
            machine.unpin(70)
            machine.set_latency(offline_block=0.0001)
            await asyncio.gather(machine.write(HOTPLUG, "unplug"), machine.write(HOTPLUG, "unplug"))
            return await machine.read(HOTPLUG)

    assert asyncio.run(main()) == "unplugged\n"


def test_waiting_under_asyncio() -> None:
    async def main() -> str:
        async with Machine() as machine:
            seen = machine.watch()
            wait = asyncio.ensure_future(seen.wait_for_uevent("remove", "*/memory/*"))
            await machine.write(HOTPLUG, "unplug")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(seen.wait_for_log("nonsense"), 0.01)
            return (await wait).devpath

    assert asyncio.run(main()) == "/devices/system/memory/memory64"


def test_without_an_event_loop() -> None:
    with pytest.raises(RuntimeError, match="use `with`"):
        Machine().__aenter__().send(None)


def test_light_to_import() -> None:
    """Neither FUSE nor an event loop."""
    script = """
import sys
from fakesysfs.testing import Machine
with Machine() as machine:
    machine.write("/sys/bus/dax/devices/dax0.0/hotplug", "unplug")
print(sorted({"trio", "asyncio", "pyfuse3", "pytest"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_bytes_that_look_like_other_lines() -> None:
    """Separators, quotes, ends of lines and bytes that are not UTF-8 come back as they were."""
    data = b'say "/y" EIO\n\x85\xe2\x80\xa8\xff EBUSY (x): a [b] c [where]'
    with Machine() as machine:
        machine.trace_writes()
        with pytest.raises(OSError, match="Invalid"):
            machine.write(HOTPLUG, data)
        machine.write("/control/dev_kmsg", b"one \xc2\x85 line \xff")
        (refusal,), (write, _) = machine.refused, machine.writes
        assert (refusal.data, write.data, write.result) == (data, data, "EINVAL")
        assert machine.log[-1].text == "one \x85 line \udcff"


def test_only_the_first_bytes_are_shown() -> None:
    with Machine() as machine:
        with pytest.raises(OSError, match="Invalid"):
            machine.write(HOTPLUG, b"x" * 100)
        assert machine.refused[-1].data == b"x" * 64
