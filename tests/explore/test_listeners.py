"""Who hears uevents."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fakesysfs.explore import listeners
from fakesysfs.explore.listeners import Listeners
from fakesysfs.explore.programs import Task
from fakesysfs.ops.footprint import PROCESSED, UEVENTS, Footprint
from fakesysfs.sandbox.linux import OpenedFiles
from fakesysfs.sandbox.netlink import NETLINK_KOBJECT_UEVENT

SELF = Task(os.getpid(), os.getppid(), "A", "R", held=False)


def heard(looks: Listeners, program: str, command: str = "sh") -> int:
    footprint = Footprint()
    looks.add_to(footprint, program, command)
    return footprint.hears


@pytest.mark.parametrize(("group", "kind"), [(1, UEVENTS), (2, PROCESSED)])
def test_a_socket_makes_its_program_hear(monkeypatch: pytest.MonkeyPatch, group: int, kind: int) -> None:
    """Also in the step in which it is closed."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as listener:
        own, everybody = str(os.fstat(listener.fileno()).st_ino), listeners._sockets  # the host may have others
        monkeypatch.setattr(listeners, "_sockets", lambda: [it for it in everybody() if it[0] == own])
        looks = Listeners("")
        assert looks.look([SELF]) == 0
        listener.bind((0, group))
        assert looks.look([SELF]) == kind
        assert (heard(looks, "A"), heard(looks, "B")) == (kind, 0)
    assert looks.look([SELF]) == 0
    assert heard(looks, "A") == kind
    looks.look([SELF])
    assert heard(looks, "A") == 0


def test_udevd_hears_and_says_what_it_has_processed() -> None:
    looks = Listeners("udevd")
    assert looks.look([]) == UEVENTS | PROCESSED
    footprint = Footprint()
    looks.add_to(footprint, "udevd", "(udev-worker)")
    assert footprint.hears & UEVENTS
    assert footprint.notes == PROCESSED
    assert heard(looks, "A", "cxl") == UEVENTS | PROCESSED


def test_opened_files(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for file in files:
        file.touch()
    opened = OpenedFiles([str(files[0])])
    files[1].read_bytes()
    assert not opened.take()
    files[0].read_bytes()
    assert opened.take()
    assert not opened.take()
