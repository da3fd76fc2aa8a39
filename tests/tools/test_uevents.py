"""The model's uevents are the kernel's inside a run, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.sandbox.netlink import Injector, NotPrivateError, network_namespace
from fakesysfs.testing import MountedMachine
from tests.tools.conftest import ROOT, Runner, need

DEVICE = "/sys/bus/dax/devices/dax0.0"

LISTENER = """
import os, socket, sys
control = os.environ["FAKESYSFS_CONTROL"]
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
listener.bind((0, 1))
def write(path, data):
    with open(path, "w") as file:
        file.write(data)
def heard():
    header, *lines = listener.recv(8192).decode().rstrip("\\0").split("\\0")
    assert lines[-1].startswith("SEQNUM="), lines
    return " ".join([header, *lines[:-1]])
def sent():
    with open(f"{control}/uevents") as file:
        return [line.rpartition(" ")[0] for line in file.read().splitlines()][before:]
before = 0  # at boot nobody listened
before = len(sent())
def compare():
    expected = sent()
    got = [heard() for _ in expected]
    assert got == expected, (len(got), [pair for pair in zip(got, expected) if pair[0] != pair[1]][:3])
    listener.setblocking(False)
    try:
        raise SystemExit(f"one too many: {heard()}")
    except BlockingIOError:
        print(len(got))
"""

MACHINE = """
title = "512 blocks of CXL memory"
block_size = "128M"
modules = ["device_dax", "dax_cxl", "kmem"]

[[node]]
id = 0
cpus = "0-1"
memory = [{ start = "0", size = "2G" }]

[[node]]
id = 1

[[dax_region]]
kind = "cxl"
start = "64G"
size = "64G"
target_node = 1

[memory_hotplug]
online_type = "online_movable"
"""


@pytest.fixture
def machine(tmp_path: Path) -> str:
    file = tmp_path / "machine.toml"
    file.write_text(MACHINE)
    return str(file)


def python(run: Runner, script: str, *options: str, interpreter: str = sys.executable) -> str:
    done = run(*options, "--", interpreter, "-c", LISTENER + script)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_thousand_events_while_somebody_reads(run: Runner, machine: str, on_the_host: list[bytes]) -> None:
    """None lost, none doubled, in order, and none on the host."""
    script = f"""
import threading
def writer():
    for _ in range(2):
        write("{DEVICE}/hotplug", "unplug")
        write("{DEVICE}/hotplug", "online_movable")
thread = threading.Thread(target=writer)
thread.start()
first = [heard() for _ in range(2000)]
thread.join()
assert first == sent()[:2000]
rest = sent()[2000:]
assert [heard() for _ in rest] == rest
print(len(first) + len(rest))
"""
    assert int(python(run, script, "--machine", machine)) > 4000
    del on_the_host


def test_thousand_events_of_one_write_of_the_reader(run: Runner, machine: str) -> None:
    """They are more than a socket's buffer holds; whoever writes and then reads still gets them all."""
    assert int(python(run, f"write('{DEVICE}/hotplug', 'unplug'); compare()", "--machine", machine)) > 1000


def test_as_an_ordinary_user(run_as_nobody: Runner) -> None:
    need("/usr/bin/python3")  # ours may lie where only root may look
    script = f"write('{DEVICE}/hotplug', 'unplug'); compare()"
    assert int(python(run_as_nobody, script, interpreter="/usr/bin/python3")) > 60


@pytest.fixture(params=["own", "--mount", "--at"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Options of a run whose server is in it, or outside."""
    point = tmp_path / "mnt"
    point.mkdir()
    if request.param == "--at":
        with MountedMachine(tmp_path):
            yield ["--at", str(point)]
    else:
        yield [] if request.param == "own" else ["--mount", str(point)]


def test_events_are_there_when_the_write_returns(run: Runner, anywhere: list[str]) -> None:
    script = """
listener.setblocking(False)
write("/sys/devices/system/memory/memory64/state", "offline")
assert heard().startswith("offline@/devices/system/memory/memory64 "), "not there yet"
write("/sys/devices/system/memory/memory64/state", "online")
"""
    for _ in range(3):
        python(run, script, *anywhere)


def test_names_are_there_when_the_event_comes(run: Runner) -> None:
    """A name that was looked up while it was absent is not taken for absent by who hears that it was added."""
    script = f"""
for _ in range(20):
    write("{DEVICE}/hotplug", "unplug")
    assert not os.path.exists("/sys/devices/system/memory/memory95")
    assert not os.path.exists("/sys/devices/system/memory/memory64")
    pid = os.fork()
    if not pid:
        write("{DEVICE}/hotplug", "online_movable")
        os._exit(0)
    while True:
        event = heard()
        if event.startswith("add@/devices/system/memory/"):
            os.stat("/sys" + event.split()[0].partition("@")[2])
        if event.startswith("online@/devices/system/memory/memory95 "):
            break
    os.waitpid(pid, 0)
"""
    python(run, script)


def test_after_a_reset(run: Runner, anywhere: list[str]) -> None:
    script = f"""
write("{DEVICE}/hotplug", "unplug")
for _ in sent(): heard()
write(f"{{control}}/reset", "1")
before = 0
write("{DEVICE}/hotplug", "unplug")
compare()
"""
    assert int(python(run, script, *anywhere)) > 100, "those of the boot too"


def test_two_runs_on_one_mount_both_hear(tmp_path: Path) -> None:
    script = """
import socket
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
listener.bind((0, 1))
print("listens", flush=True)
while b"change@" not in listener.recv(8192):
    pass
print("heard", flush=True)
"""
    with MountedMachine(tmp_path) as machine:
        started = [machine.start([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)]
        outputs = [process.stdout for process in started]
        assert [output.readline() for output in outputs if output] == ["listens\n"] * 2
        machine.write("/sys/devices/system/memory/memory64/uevent", "change")
        assert [output.readline() for output in outputs if output] == ["heard\n"] * 2


def test_another_users_run_on_a_mount_of_root(run_as_nobody: Runner, public_path: Path) -> None:
    with MountedMachine(public_path) as machine:
        done = run_as_nobody("--at", machine.path, "--", "cat", f"{DEVICE}/hotplug")
        assert done.stdout == "online_movable\n"
        why = "only the user who mounted it may announce its uevents: this run has none"
        assert done.stderr == f"fakesysfs: {machine.path}: {why}\n"
        done = run_as_nobody("--at", machine.path, "--host-network", "--", "true")
        assert (done.returncode, done.stderr) == (0, ""), "there are none in any case"


def test_another_users_run_ends_with_the_mount_too(run_as_nobody: Runner, public_path: Path) -> None:
    """And not with the machine, when that is reset."""
    with MountedMachine(public_path) as machine:
        options = ("--at", machine.path, "--", "sh", "-c", "echo; read line; echo; sleep 1000")
        process = run_as_nobody.start(*options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        machine.write("/control/reset", "1")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "\n"
        assert process.poll() is None
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.endswith("fakesysfs: the fake is no longer mounted, so the command was ended\n")


def test_listener_that_does_not_read_delays_no_writer_for_long(run: Runner, machine: str, tmp_path: Path) -> None:
    """It may be the writer itself. Here the server is outside, and more is announced than a buffer holds."""
    point = tmp_path / "mnt"
    point.mkdir()
    script = f"write('{DEVICE}/hotplug', 'unplug'); write('{DEVICE}/hotplug', 'online_movable'); compare()"
    assert int(python(run, script, "--machine", machine, "--mount", str(point))) > 2000


def test_a_run_ends_with_the_mount_that_it_uses(run: Runner, tmp_path: Path) -> None:
    """However that ends."""
    with MountedMachine(tmp_path) as machine:
        ended = [
            run.start(
                "--at",
                str(machine.path),
                *options,
                "--",
                "sh",
                "-c",
                "echo; sleep 1000",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for options in ([], ["--host-network"])
        ]
        for process in ended:
            assert process.stdout is not None
            process.stdout.readline()
    for process in ended:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (
            1,
            "fakesysfs: the fake is no longer mounted, so the command was ended\n",
        )


@pytest.mark.parametrize("how", ["--mount", "--at"])
def test_server_outside(run: Runner, tmp_path: Path, how: str, on_the_host: list[bytes]) -> None:
    """Then a helper injects them. What was before the run is not announced in it."""
    point = tmp_path / "mnt"
    point.mkdir()
    script = f"write('{DEVICE}/hotplug', 'unplug'); compare()"
    if how == "--mount":
        assert int(python(run, script, how, str(point))) > 60
    else:
        with MountedMachine(tmp_path) as machine:
            machine.write("/sys/devices/system/memory/memory64/state", "offline")
            write = "write('/sys/devices/system/memory/memory65/state', 'offline')"
            python(run, f"{write}; assert 'memory65 ' in heard()", how, str(point))
            assert [event.devpath[-2:] for event in machine.uevents[-2:]] == ["64", "65"]
    del on_the_host


def test_refused_where_the_user_lives() -> None:
    with pytest.raises(NotPrivateError, match="outside of a private network namespace"):
        Injector(network_namespace())


def test_refused_without_a_user_namespace_of_ones_own() -> None:
    """Nor if somebody is wrong about which namespace is the host's."""
    with pytest.raises(NotPrivateError, match="private user namespace"):
        Injector(0)


def inject(*wrapper: str | Path, outside: int) -> str:
    """What is said to somebody who tries to send one, started by `wrapper`."""
    script = f"from fakesysfs.sandbox.netlink import Injector; Injector({outside}).send(['change@/memory'])"
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make such namespaces")
@pytest.mark.parametrize(
    "wrapper",
    [
        "unshare --net",
        "unshare --user --map-root-user",
        "unshare --net unshare --user --map-root-user",
        "unshare --user --map-root-user --net unshare --user --map-root-user",
    ],
)
def test_refused_where_the_namespace_is_somebody_elses(wrapper: str, on_the_host: list[bytes]) -> None:
    """The first one is what `ip netns` makes: the first user namespace owns it, and the host's events arrive there.

    The others have a user namespace of their own in a network namespace that is older.
    """
    for outside in (network_namespace(), 0):
        assert "NotPrivateError" in inject(*wrapper.split(), outside=outside)
    del on_the_host


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may enter it")
def test_refused_to_who_enters_a_runs_network(run: Runner, on_the_host: list[bytes]) -> None:
    """It is private, but not his."""
    process = run.start("--", "sh", "-c", "echo; read line", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (inside,) = [pid for pid in run.alive() if Path(f"/proc/{pid}/comm").read_text() == "sh\n"]
    said = inject("nsenter", f"--net=/proc/{inside}/ns/net", outside=network_namespace())
    process.kill()
    assert "does not belong to a private user namespace" in said
    del on_the_host


def test_none_on_the_hosts_network(run: Runner, anywhere: list[str], on_the_host: list[bytes]) -> None:
    script = f"""
write("{DEVICE}/hotplug", "unplug")
assert len(sent()) > 60
listener.setblocking(False)
try:
    while True:
        assert not any(word in heard() for word in ("memory", "dax"))
except BlockingIOError:
    pass
"""
    python(run, script, "--host-network", *anywhere)
    del on_the_host
