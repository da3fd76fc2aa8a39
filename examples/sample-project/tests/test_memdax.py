"""memdax on machines that nobody has: kernels to come, races, memory that cannot be removed."""

from pathlib import Path

import pytest

from fakesysfs.testing import MountedMachine

MEMDAX = Path(__file__).parents[1] / "memdax"
RULE = 'SUBSYSTEM=="memory", ACTION!="remove", ATTR{state}=="offline", ATTR{state}="online"\n'

every_kernel = pytest.mark.parametrize(
    "fakesysfs_shared_machine", [{"kernel": kernel} for kernel in ("7.2", "hotplug-v3", "7.3")], indirect=True
)


@every_kernel
def test_unplug_and_online_again(fakesysfs_shared_machine: MountedMachine) -> None:
    machine = fakesysfs_shared_machine
    assert machine.run([MEMDAX, "list"]).stdout == "dax0.0 4294967296 online\n"
    machine.run([MEMDAX, "unplug", "dax0.0"], check=True)
    assert machine.run([MEMDAX, "list"]).stdout == "dax0.0 4294967296 unplugged\n"
    assert not machine.exists("/sys/devices/system/node/node2")
    machine.run([MEMDAX, "online", "dax0.0"], check=True)
    assert machine.run([MEMDAX, "list"]).stdout == "dax0.0 4294967296 online\n"
    assert machine.read("/sys/devices/system/memory/memory64/valid_zones") == "Movable\n"


@every_kernel
def test_memory_that_cannot_be_removed(fakesysfs_shared_machine: MountedMachine) -> None:
    machine = fakesysfs_shared_machine
    machine.set_unmovable(70)
    done = machine.run([MEMDAX, "unplug", "dax0.0"])
    assert done.returncode == 1
    assert "the kernel refuses" in done.stderr
    assert machine.refused[-1].errno == "EBUSY"
    assert machine.refused[-1].why == "memory70 has an unmovable page"
    whole = machine.kernel != "7.2"
    state = "online" if whole else "mixed"
    assert machine.run([MEMDAX, "list"]).stdout.split()[-1] == state, "all or nothing, where the kernel can"


@pytest.mark.fakesysfs(kernel="7.2")
def test_somebody_else_onlines(fakesysfs_shared_machine: MountedMachine, tmp_path: Path) -> None:
    """udevd has a rule that onlines whatever is offline: memdax must notice, and not lose the memory."""
    machine = fakesysfs_shared_machine
    rule = tmp_path / "80-online.rules"
    rule.write_text(RULE)
    machine.trace_writes()
    done = machine.run([MEMDAX, "unplug", "dax0.0"], udev=True, rules=[rule])
    assert (done.returncode, done.stderr) == (1, "memdax: dax0.0: somebody onlines its memory: giving up\n")
    assert any(write.data == b"online" and "udev" in write.command for write in machine.writes)
    assert machine.exists("/sys/bus/dax/devices/dax0.0/driver"), "still bound: nothing is lost"


@pytest.mark.fakesysfs(kernel="hotplug-v3")
def test_nobody_can_get_in_between(fakesysfs_shared_machine: MountedMachine, tmp_path: Path) -> None:
    """With one write for the whole device, however long it takes."""
    machine = fakesysfs_shared_machine
    rule = tmp_path / "80-online.rules"
    rule.write_text(RULE)
    machine.set_latency(offline_block=0.005)
    machine.run([MEMDAX, "unplug", "dax0.0"], udev=True, rules=[rule], check=True)
    assert machine.run([MEMDAX, "list"]).stdout.split()[-1] == "unplugged"
    assert "offline" in {event.action for event in machine.uevents}


@pytest.mark.fakesysfs(machine="tiny")
def test_wrong_use(fakesysfs_shared_machine: MountedMachine) -> None:
    machine = fakesysfs_shared_machine
    assert machine.run([MEMDAX]).returncode == 2
    assert machine.run([MEMDAX, "online", "dax9.9"]).stderr == "memdax: there is no device dax9.9\n"
