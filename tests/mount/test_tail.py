"""tail(1) follows the logs of control/."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.kernel.printk import LOG_RECORDS
from fakesysfs.testing import MountedMachine

pytestmark = pytest.mark.mount

MEMORY = "/sys/devices/system/memory"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[MountedMachine]:
    with MountedMachine(tmp_path) as machine:
        yield machine


@contextlib.contextmanager
def tail(machine: MountedMachine, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """It looks twenty times a second."""
    command = ["tail", "-s", "0.05", *options, str(machine.control / name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def say(machine: MountedMachine, text: str) -> None:
    machine.write("/control/dev_kmsg", text)


@pytest.mark.parametrize("how", ["-f", "-F", "--follow=name"])
def test_the_last_lines_and_then_new_ones(machine: MountedMachine, how: str) -> None:
    for number in range(3):
        say(machine, f"before {number}")
    with tail(machine, "kmsg", how, "-n", "2") as process:
        assert line_of(process).endswith("before 1\n")
        assert line_of(process).endswith("before 2\n")
        for number in range(3):
            say(machine, f"after {number}")
            assert line_of(process).endswith(f"after {number}\n")


def test_from_the_first_line_on(machine: MountedMachine) -> None:
    before = (machine.control / "kmsg").read_text().splitlines(keepends=True)
    with tail(machine, "kmsg", "-f", "-n", "+1") as process:
        assert [line_of(process) for _ in before] == before
        say(machine, "hello")
        assert line_of(process).endswith("hello\n")


def test_uevents(machine: MountedMachine) -> None:
    with tail(machine, "uevents", "-f", "-n", "1") as process:
        line_of(process)
        machine.write(f"{MEMORY}/memory64/state", "offline")
        assert line_of(process).startswith("offline@/devices/system/memory/memory64 ")


def test_refused(machine: MountedMachine) -> None:
    """It is empty at first."""
    with tail(machine, "refused", "-f", "-n", "+1") as process:
        for word in ("nonsense", "rubbish"):
            with pytest.raises(OSError, match="Invalid argument"):
                machine.write(f"{MEMORY}/memory64/state", word)
            assert word in line_of(process)


@pytest.mark.parametrize("name", ["kmsg", "uevents", "refused"])
def test_json_lines(machine: MountedMachine, name: str) -> None:
    with tail(machine, f"{name}.jsonl", "-f", "-n", "+1") as process:
        for _ in (machine.control / f"{name}.jsonl").read_text().splitlines():
            line_of(process)
        say(machine, "hello")
        machine.write(f"{MEMORY}/memory64/state", "offline")
        with pytest.raises(OSError, match="Invalid argument"):
            machine.write(f"{MEMORY}/memory64/state", "nonsense")
        line = json.loads(line_of(process))
        expected = {
            "kmsg": ("text", "hello"),
            "uevents": ("action", "offline"),
            "refused": ("data", "nonsense"),
        }
        key, value = expected[name]
        assert line[key] == value
        if name == "refused":
            assert (line["pid"], line["comm"], line["uid"]) == (os.getpid(), comm(), os.getuid())


def comm() -> str:
    return Path("/proc/self/comm").read_text().rstrip("\n")


def test_over_a_reset(machine: MountedMachine) -> None:
    """It is a new file then, which -F finds."""
    with tail(machine, "kmsg", "-F", "-n", "1") as process:
        line_of(process)
        machine.write("/control/reset", "1")
        log = (machine.control / "kmsg").read_text().splitlines(keepends=True)
        say(machine, "hello")
        assert "has been replaced" in line_of(process)
        assert [line_of(process) for _ in log] == log
        assert line_of(process).endswith("hello\n")


def test_what_is_dropped_meanwhile_is_counted(machine: MountedMachine) -> None:
    with tail(machine, "kmsg", "-f", "-n", "1") as process:
        line_of(process)
        process.send_signal(signal.SIGSTOP)
        for number in range(LOG_RECORDS + 1):
            say(machine, f"message {number}")
        process.send_signal(signal.SIGCONT)
        assert line_of(process).endswith(" earlier messages dropped)\n")
        for number in range(1, LOG_RECORDS + 1):
            assert line_of(process).endswith(f" message {number}\n")
        say(machine, "hello")
        assert line_of(process).endswith(" hello\n")


def test_a_full_log(machine: MountedMachine) -> None:
    for number in range(LOG_RECORDS + 1):
        say(machine, f"message {number}")
    with tail(machine, "kmsg", "-f", "-n", "2") as process:
        assert line_of(process).endswith(f" message {LOG_RECORDS - 1}\n")
        assert line_of(process).endswith(f" message {LOG_RECORDS}\n")
        say(machine, "hello")
        assert line_of(process).endswith(" hello\n")


def test_copies_are_whole(machine: MountedMachine, tmp_path: Path) -> None:
    """Tools that believe st_size, or copy within the kernel, get all of it."""
    kmsg = machine.control / "kmsg"
    text = kmsg.read_text()
    subprocess.run(["cp", kmsg, tmp_path / "copy"], check=True)
    subprocess.run(["tar", "-C", machine.control, "-cf", tmp_path / "tar", "kmsg"], check=True)
    extracted = subprocess.run(["tar", "-xOf", tmp_path / "tar"], check=True, capture_output=True, text=True).stdout
    assert (tmp_path / "copy").read_text() == extracted == text
    assert kmsg.stat().st_size == len(text)
