"""Saved states of guests: what is kept, replaced and removed. A small program stands for QEMU."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.lab import __main__ as lab
from fakesysfs.lab import agent, guest, images, machines
from fakesysfs.lab.archive import LabError, cache_folder
from fakesysfs.lab.images import KernelImage, Program
from fakesysfs.lab.qemu import Qemu, QemuError, StateError

FAKE_QEMU = r"""
import json, pathlib, re, socket, struct, sys
ports = dict(found.groups() for word in sys.argv if (found := re.match(r"socket,id=(\w+),fd=(\d+)", word)))
agent = socket.socket(fileno=int(ports["agent"]))
agent.sendall(struct.pack("<IqBI", 13, 0, 0, 0))  # the answer to the first request: 0
monitor = socket.socket(fileno=int(ports["monitor"])).makefile("rw")

def say(**reply):
    print(json.dumps(reply), file=monitor, flush=True)

say(QMP={})
for line in monitor:
    request = json.loads(line)
    file = pathlib.Path(request.get("arguments", {}).get("uri", "file:").removeprefix("file:"))
    if request["execute"] == "migrate":
        file.write_text("state")
    if request["execute"] == "migrate-incoming" and file.read_text() != "state":
        say(error={"desc": "not a state"})
    elif request["execute"] == "query-migrate":
        say(**{"return": {"status": "failed" if "disk-full" in sys.argv else "completed"}})
    else:
        say(**{"return": {}})
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "qemu").write_text(FAKE_QEMU, encoding="ascii")
    return Program((sys.executable, str(tmp_path / "qemu")))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> Iterator[KernelImage]:
    """A kernel in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKESYSFS_LAB_ACCELERATOR", "tcg")
    monkeypatch.setattr(images, "qemu", lambda: program)
    monkeypatch.setattr(images, "qemu_version", lambda: (11, 1))
    monkeypatch.setattr(images, "_installed_qemu", lambda: None)
    monkeypatch.setattr(guest, "_initramfs", lambda *_: tmp_path / "initramfs")
    guest.accelerator.cache_clear()
    yield _kernel("7.3-2")
    guest.accelerator.cache_clear()


def _kernel(version: str) -> KernelImage:
    folder = cache_folder() / "kernels" / version / "usr/lib/modules/7.3-amd64"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_text(version, encoding="ascii")
    return KernelImage(version, folder)


def _states() -> list[Path]:
    return sorted((cache_folder() / "states").glob("*.state"))


def test_a_state_that_cannot_be_restored_is_replaced(image: KernelImage, capsys: pytest.CaptureFixture[str]) -> None:
    description = machines.GUESTS["default"]
    for said in ("booting Debian 7.3-2", "the saved state is removed: QEMU refuses: not a state", ""):
        with guest.boot(description, image) as booted:
            assert booted.restored
        assert said in (printed := capsys.readouterr().err)
        assert ("booting" in printed) == bool(said)
        (state,) = _states()
        assert state.read_text(encoding="ascii") == "state"
        if "booting" in said:
            state.write_text("half a", encoding="ascii")


def test_a_new_state_that_cannot_be_restored_ends_the_start(
    image: KernelImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Qemu, "save", lambda _, path: path.write_text("half a", encoding="ascii"))
    with pytest.raises(StateError, match="QEMU refuses: not a state"):
        guest.boot(machines.GUESTS["default"], image)


def test_a_state_that_cannot_be_saved_leaves_no_file(tmp_path: Path, program: Program) -> None:
    with tempfile.NamedTemporaryFile() as console:
        qemu = Qemu(program, ["disk-full"], console)
        try:
            (tmp_path / "states").mkdir()
            with pytest.raises(QemuError, match="cannot save or restore the guest"):
                qemu.save(tmp_path / "states/one.state")
        finally:
            qemu.end()
    assert list((tmp_path / "states").iterdir()) == []


def test_the_note_of_the_accelerator_is_whole_when_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: KernelImage
) -> None:
    """Another process that reads an empty note would start its guests without an accelerator."""
    monkeypatch.delenv("FAKESYSFS_LAB_ACCELERATOR")
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(guest, "_KVM", tmp_path / "kvm")

    def silent(*_: object, **__: object) -> None:
        raise LabError("silent")

    monkeypatch.setattr(guest, "_start", silent)
    moved = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        moved.append((target.exists(), path.read_text(encoding="ascii")))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    assert guest.accelerator(image) == "tcg"
    assert moved == [(False, "tcg")]
    assert list((cache_folder() / "states").iterdir()) == [guest._note()]


def _everything() -> set[str]:
    folders = (cache_folder(), cache_folder() / "kernels", cache_folder() / "states")
    return {str(path.relative_to(cache_folder())) for folder in folders for path in folder.iterdir()}


def test_clean_removes_what_no_boot_uses(image: KernelImage) -> None:
    cache, description = cache_folder(), machines.GUESTS["default"]
    for folder in images.program_folders():
        folder.mkdir()
    agent.program_path(cache).touch()
    with guest.boot(description, image):
        guest._initramfs_path(description, image).touch()
        guest._note().touch()
    used = _everything()
    assert len(used) == 9
    _kernel("7.3-1")
    (cache / "kernels/fetching.x").mkdir()
    for name in ("qemu-0", "tools-0", "fetching.x"):
        (cache / name / "usr").mkdir(parents=True)
    for name in ("agent-0", "states/7.3-2-default-0.state", "states/x.1.part", "states/accelerator-0"):
        (cache / name).touch()
    (cache / "states/initramfs-7.3-2-0.cpio").touch()
    assert lab.main(["clean"]) == 0
    assert _everything() == used


def test_clean_keeps_no_state_of_missing_tools(image: KernelImage) -> None:
    """A fetch may bring other ones. Clean fetches nothing to find out."""
    with guest.boot(machines.GUESTS["default"], image):
        pass
    assert len(_states()) == 1
    assert lab.main(["clean"]) == 0
    assert _everything() == {"kernels", "kernels/7.3-2", "states"}
