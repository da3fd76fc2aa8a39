"""The mounted machine: what a test of a program may count on."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakesysfs.testing import Machine, MountedMachine
from tests.tools.conftest import need, need_poll

pytestmark = pytest.mark.mount

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
MEMORY = "/sys/devices/system/memory"


def test_waiting(tmp_path: Path) -> None:
    with MountedMachine(tmp_path) as machine:
        machine.set_latency(offline_block=0.002)
        seen = machine.watch()
        writer = threading.Thread(target=machine.write, args=(HOTPLUG, "unplug"))
        writer.start()
        event = seen.wait_for_uevent("offline", "*/memory66")
        assert seen.uevents[2] == event
        assert seen.wait_for_uevent("offline").devpath.endswith("/memory64"), "the first one"
        seen.wait_for_uevent("remove", "*/node/node2")
        writer.join()
        assert seen.wait_for_log("Built 3 zonelists|Policy zone")
        with pytest.raises(TimeoutError, match=r"no uevent bind@\* in 0.01 seconds, but \.\.\., remove@/devices"):
            seen.wait_for_uevent("bind", timeout=0.01)
        with pytest.raises(TimeoutError, match="the moon did not come true"):
            machine.wait_until(lambda: None, 0.01, "the moon")
        assert machine.wait_until(lambda: machine.read(HOTPLUG).strip()) == "unplugged"
        machine.reset()
        assert seen.uevents == machine.uevents


def test_nothing_is_left_of_what_others_changed(tmp_path: Path) -> None:
    """Not even on files that outlive a reset, and not in the host's caches."""
    with MountedMachine(tmp_path) as machine:
        paths = [machine.control / "kernel", machine.sys, machine.proc / "iomem", machine.sys / MEMORY[5:]]
        before = [path.stat().st_mode for path in paths]
        for path in paths:
            path.chmod(0o700)
            os.utime(path, (1, 1))
        assert [path.stat().st_mode & 0o777 for path in paths] == [0o700] * 4
        machine.reset()
        assert [path.stat().st_mode for path in paths] == before
        assert all(path.stat().st_mtime > 1 for path in paths)


@pytest.mark.tools
def test_a_daemon_that_onlines_what_is_added(tmp_path: Path) -> None:
    """The example of docs/testing.md, with a daemon."""
    need("daxctl")
    script = """
import socket
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
listener.bind((0, 1))
print("listens", flush=True)
while True:
    action, _, path = listener.recv(8192).partition(b"\\0")[0].decode().partition("@")
    if action == "add" and path.startswith("/devices/system/memory/"):
        with open(f"/sys{path}/state", "w") as state:
            state.write("online_movable")
"""
    with MountedMachine(tmp_path, kernel="7.2") as machine:
        machine.run(["daxctl", "reconfigure-device", "--force", "--mode=devdax", "dax0.0"], check=True)
        machine.write("/sys/devices/system/memory/auto_online_blocks", "offline")
        daemon = machine.start([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert daemon.stdout is not None
        daemon.stdout.readline()
        seen = machine.watch()
        machine.run(["daxctl", "reconfigure-device", "--no-online", "--mode=system-ram", "dax0.0"], check=True)
        seen.wait_for_uevent("online", "*/memory95")
        online = {event.devpath for event in seen.uevents if event.action == "online"}
        assert len(online) == 32
        assert {refusal.command for refusal in seen.refused} <= {"daxctl"}, "which binds once more than it must"


@pytest.mark.tools
def test_machines_side_by_side(tmp_path: Path) -> None:
    """Each with a program under test, which hears its own machine's uevents."""
    script = """
import socket
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
listener.bind((0, 1))
print("listens", flush=True)
while True:
    header = listener.recv(8192).partition(b"\\0")[0].decode()
    print(header, flush=True)
"""
    with MountedMachine(tmp_path / "a") as first, MountedMachine(tmp_path / "b", "tiny", "7.3") as second:
        machines = [first, second]
        outputs = []
        for machine in machines:
            process = machine.start([sys.executable, "-c", script], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == "listens\n"
            outputs.append(process.stdout)
        blocks = [_block(machine) for machine in machines]
        for machine, block in zip(machines, blocks, strict=True):
            machine.write(f"{MEMORY}/{block}/uevent", "change")
        assert [output.readline() for output in outputs] == [f"change@/devices/system/memory/{b}\n" for b in blocks]


@pytest.mark.tools
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide it")
def test_where_there_is_no_udevd(tmp_path: Path) -> None:
    need("udevadm", "unshare")
    daemons = ("/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/sbin/udevd")
    hide = "; ".join(
        f"mount --bind /dev/null {path}"
        for path in {os.path.realpath(path) for path in daemons}
        if os.path.exists(path)
    )
    script = """
import sys
from fakesysfs.testing import CannotMountError, MountedMachine
with MountedMachine(sys.argv[1]) as machine:
    print(machine.run(["echo", "fine"]).stdout)
    try:
        machine.run(["true"], udev=True)
    except CannotMountError as error:
        print(error)
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{hide}; exec "$@"', "sh", sys.executable, "-c", script, tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n\n")[0] == "fine"
    assert "systemd-udevd is not installed" in done.stdout


def _block(machine: MountedMachine) -> str:
    """The last block, which is the dax device's."""
    return max(machine.ls("/sys/bus/memory/devices"), key=lambda name: int(name[6:]))


@pytest.mark.parametrize("name", ["uevents_follow", "uevents_new", "kmsg_follow", "dev_kmsg", "calls_new"])
def test_poll_tells_when_there_is_more(tmp_path: Path, name: str) -> None:
    """So select(2) and event loops can wait for it."""
    need_poll()
    with MountedMachine(tmp_path) as machine, open(machine.control / name, "rb", buffering=0) as file:
        os.set_blocking(file.fileno(), False)
        poll = select.poll()
        poll.register(file, select.POLLIN)
        with contextlib.suppress(BlockingIOError):
            while poll.poll(0):
                file.read(1 << 16)
        assert poll.poll(0) == []
        for _ in range(2):
            timer = threading.Timer(0.05, machine.write, (f"{MEMORY}/memory64/uevent", "change"))
            if "kmsg" in name:
                timer = threading.Timer(0.05, machine.write, ("/control/dev_kmsg", "hello"))
            timer.start()
            assert poll.poll(20000) == [(file.fileno(), select.POLLIN)]
            timer.join()
            assert file.read(1 << 16)
            assert poll.poll(0) == []


# Errors ------------------------------------------------------------------------------------------------------------


def error_of(call: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as raised:  # noqa: PT011  any errno
        call()
    return raised.value


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedMachine]:
    with MountedMachine(tmp_path_factory.mktemp("errors")) as machine:
        yield machine


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (f"{MEMORY}/memory64/state", "nonsense"),
        ("/sys/bus/memory/devices/memory65/state", "online"),  # behind a link
        (f"{MEMORY}/block_size_bytes", "1"),  # refused at the open
        ("/control/latency/online_block", "long"),
    ],
)
def test_a_refusal_is_the_error_of_a_machine_in_process(mounted: MountedMachine, path: str, data: str) -> None:
    """The path inside the fake, and the reason as a note."""
    with Machine() as in_process:
        expected = error_of(lambda: in_process.write(path, data))
    error = error_of(lambda: mounted.write(path, data))
    assert (type(error), error.errno, error.strerror, error.filename) == (
        *(type(expected), expected.errno, expected.strerror),
        path,
    )
    assert error.__notes__ == expected.__notes__


def test_what_the_host_refuses_has_the_path_and_no_reason(mounted: MountedMachine) -> None:
    for call in (mounted.read, mounted.ls, mounted.stat, mounted.readlink):
        error = error_of(lambda call=call: call("/sys/nothing"))  # type: ignore[misc]
        assert isinstance(error, FileNotFoundError)
        assert error.filename == "/sys/nothing"
        assert not hasattr(error, "__notes__")


def test_the_reason_is_that_of_the_last_refusal(mounted: MountedMachine) -> None:
    for word in ("one", "two"):
        error = error_of(lambda word=word: mounted.write(f"{MEMORY}/memory64/state", word))  # type: ignore[misc]
        assert error.__notes__[0].startswith(f"{word!r} is not one of")


def test_an_error_without_a_server_is_the_hosts(tmp_path: Path) -> None:
    machine = MountedMachine(tmp_path)

    def read_until_it_fails() -> None:
        while True:
            machine.read("/control/kernel")

    with contextlib.suppress(RuntimeError), machine:
        os.kill(int(machine.read("/control/pid")), signal.SIGKILL)
        error = error_of(read_until_it_fails)
        assert error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
        assert error.filename == "/control/kernel"
