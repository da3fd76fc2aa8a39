"""`tests/replay --on kernel` before a kernel boots: what is left out, and what cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fakesysfs.lab import guest, images
from fakesysfs.lab.archive import LabError
from fakesysfs.lab.images import KernelImage
from fakesysfs.replay import cli, kernel_target, raw
from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.report import REPRODUCED, Line, Report
from fakesysfs.replay.target import NotSupportedError

SESSIONS = Path(__file__).parents[1] / "recordings/sessions"
AGREED = Line("i=1", "read /sys/a", REPRODUCED)
AS_POSTED = SESSIONS / "hotplug-v3-as-posted/14-memmap_on_memory.jsonl"


def test_a_kernel_that_nobody_packages_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--on", "kernel", str(AS_POSTED)]) == 1
    said = capsys.readouterr()
    assert said.out == "not run: no distribution packages the kernel hotplug-v3-as-posted\n"
    assert said.err == "fakesysfs replay: no recording is left to replay on a real kernel\n"


def test_each_session_is_replayed_on_the_kernel_of_its_series(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def fetched(name: str) -> KernelImage:
        asked.append(name)
        return KernelImage(f"{name}.1-1", Path("/nothing"))

    monkeypatch.setattr(images, "kernel_image", fetched)

    def not_here(*_: object) -> None:
        raise LabError("no QEMU here")

    monkeypatch.setattr(kernel_target, "replay_on", not_here)
    files = [SESSIONS / "7.2/01-boot.jsonl", SESSIONS / "7.3/01-selftest.jsonl", AS_POSTED]
    assert cli.main(["--on", "kernel", "-v", *map(str, files)]) == 1
    assert sorted(set(asked)) == ["7.2", "7.3"]
    out = capsys.readouterr().out
    assert "kernel: Debian 7.2.1-1 (nothing)" in out
    assert "7.2/01-boot: 0 of 21 operations reproduced" in out
    assert "[no QEMU here]" in out or "no QEMU here" in out


def test_what_a_build_agreed_to_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "kernel_image", lambda name: KernelImage(f"{name}.1-1", Path("/nothing")))
    monkeypatch.setattr(kernel_target, "replay_on", lambda *_: Report("7.2/01-boot", lines=[AGREED]))
    note = tmp_path / "note.json"
    note.write_text('[{"recordings": "7.3", "build": "other"}]')
    for _ in range(2):
        assert cli.main(["--on", "kernel", "--note", str(note), str(SESSIONS / "7.2/01-boot.jsonl")]) == 0
    other, row = json.loads(note.read_text())
    assert other == {"recordings": "7.3", "build": "other"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row.pop("date"))
    build = "Debian 7.2.1-1 (nothing)"
    assert row == {"kernel": "7.2", "recordings": "7.2", "build": build, "reproduced": 1, "counted": 1}


def test_a_variant_without_a_guest_is_named() -> None:
    with pytest.raises(NotSupportedError, match="the lab has no guest 'moon'"):
        kernel_target.guest_of("moon")
    with pytest.raises(NotSupportedError, match="Debian has no kernel hotplug-v3"):
        kernel_target.image_of("hotplug-v3")


def test_older_states_of_the_same_guest_are_found(tmp_path: Path) -> None:
    names = ["7.3-1-default-aa", "7.3-1-default-bb", "7.3-1-default-policy-cc", "7.2-1-default-dd"]
    for name in names:
        (tmp_path / f"{name}.state").touch()
    found = guest._older_states(tmp_path / "7.3-1-default-bb.state")
    assert [path.stem for path in found] == ["7.3-1-default-aa"]


def test_another_build_or_guest_has_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "qemu", lambda: images.Program(("qemu",)))
    version, processor = (11, 1), tmp_path / "cpuinfo"
    monkeypatch.setattr(images, "qemu_version", lambda: version)
    monkeypatch.setattr(guest, "_CPUINFO", processor)
    processor.write_text("processor\t: 0\nmodel name\t: One\n", encoding="ascii")
    (tmp_path / "vmlinuz").write_bytes(b"one")
    image = KernelImage("7.3-1", tmp_path)
    default, pmem = kernel_target.guest_of("default"), kernel_target.guest_of("boot-policy-online")
    first = guest._identity(default, image, "tcg")
    assert first == guest._identity(default, image, "tcg")
    assert len({first, guest._identity(pmem, image, "tcg"), guest._identity(default, image, "kvm")}) == 3
    (tmp_path / "vmlinuz").write_bytes(b"another")
    second, with_kvm = guest._identity(default, image, "tcg"), guest._identity(default, image, "kvm")
    assert second != first
    processor.write_text("processor\t: 0\nmodel name\t: Two\n", encoding="ascii")
    assert guest._identity(default, image, "tcg") == second
    assert guest._identity(default, image, "kvm") != with_kvm
    version = (11, 2)
    assert guest._identity(default, image, "tcg") != second


def test_the_accelerator_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKESYSFS_LAB_ACCELERATOR", "tcg")
    guest.accelerator.cache_clear()
    assert guest.accelerator(KernelImage("7.3-1", Path("/nothing"))) == "tcg"
    guest.accelerator.cache_clear()


def test_descriptors_are_closed_after_their_last_use() -> None:
    """The recorder closed them without a line. An open file of debugfs holds its module."""
    closed = []

    class Target(ModelTarget):
        def close(self, descriptor: int) -> None:
            closed.append(descriptor)
            super().close(descriptor)

    def calls(*made: tuple[str, list[object], object]) -> Operation:
        return {"op": "raw", "calls": [{"fn": fn, "args": args, "ret": ret} for fn, args, ret in made]}

    path = "/sys/devices/system/memory/auto_online_blocks"
    operations = [
        calls(("open", [path, 0], "fd1"), ("open", [path, 0], "fd2")),
        calls(("read", ["fd2", 9], "offline\n")),
        calls(("open", ["/proc/self/fd/7", 0], "fd3")),
    ]
    last = raw.last_uses(operations)
    assert last == {"fd1": 2, "fd2": 1, "fd3": 2}
    descriptors = raw.Descriptors(Target(boot(machine_and_kernel("7.3", "default"))))
    left = []
    for index, operation in enumerate(operations):
        assert [line for call in operation["calls"] for line in descriptors.perform(call)] == []
        descriptors.close_unused(index, last)
        left.append(sorted(descriptors.numbers))
    assert left == [["fd1", "fd2"], ["fd1"], []]
    assert len(closed) == 3
