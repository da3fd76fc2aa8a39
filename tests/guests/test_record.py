"""Scripts, and what is recorded of them. The model stands for the kernel: what it answers, it replays."""

from __future__ import annotations

import ast
import errno
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakesysfs.lab.agent import Answer
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import GUESTS
from fakesysfs.ops.errors import EHWPOISON
from fakesysfs.replay import kernel_target, player, record
from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel
from fakesysfs.replay.record import Recorder, ScriptError, parse
from fakesysfs.replay.recording import Operation, Session, load
from fakesysfs.replay.report import Kind
from fakesysfs.replay.target import NotSupportedError, Outcome, errno_name, errno_number

SCRIPT = r"""
# unplug and plug again
sh modprobe device_dax; modprobe dax_hmem; modprobe kmem
blocks
read /sys/bus/dax/devices/dax0.0/state
write /sys/bus/dax/devices/dax0.0/state unplugged
blocks
bytes /sys/bus/dax/devices/dax0.0/state 'onlin\0e'
write /sys/nothing x
write /sys/bus/dax/devices/dax0.0/state online_movable
stat /sys/bus/dax/devices/dax0.0
ls /sys/bus/dax/devices
ls /sys/nothing
iomem
memtotal
read /proc/zoneinfo all
tiers
tainted
fixture pin 2
start 1 /sys/bus/dax/devices/dax0.0/state unplugged
poll 1
signal 1
end 1
fixture unpin
start 2 /sys/bus/dax/devices/dax0.0/state é
end 2
collect
"""


def _session(tmp_path: Path, lines: list[Operation]) -> Session:
    header = {"op": "header", "profile": "7.3", "name": "x", "variant": "default"}
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, *lines]), encoding="utf-8")
    session = load(path)
    assert isinstance(session, Session)
    return session


def test_what_is_recorded_is_replayed(tmp_path: Path) -> None:
    operations = [*parse(SCRIPT), {"op": "readdir-raw-order", "path": "/sys/nothing"}]
    lines = list(Recorder(ModelTarget(boot(machine_and_kernel("7.3", "default")))).record(operations))
    session = _session(tmp_path, lines)
    report = player.replay(session, ModelTarget(boot(machine_and_kernel("7.3", "default"))), None)
    assert list(report.details()) == []
    assert report.count(Kind.REPRODUCED) == len(lines) - 1
    again = list(Recorder(ModelTarget(boot(machine_and_kernel("7.3", "default")))).record(session.operations))
    assert again == lines


def test_answers_are_in_the_recordings_form() -> None:
    lines = list(Recorder(ModelTarget(boot(machine_and_kernel("7.3", "default")))).record(list(parse(SCRIPT))))
    by_number = {line["i"]: line for line in lines}
    assert by_number[1] == {"op": "note", "i": 1, "text": "unplug and plug again"}
    assert (by_number[3]["full"], by_number[6]["full"]) == (True, False)
    assert by_number[5]["ret"] == len("unplugged\n")
    assert by_number[6]["blocks"]["48"] is None
    assert by_number[7]["data"] == "onlin\0e"
    assert by_number[7]["errno"] == "EINVAL"
    assert by_number[8]["open_errno"] == "ENOENT"
    assert by_number[12] == {"op": "ls", "i": 12, "path": "/sys/nothing", "names": None}
    assert all("SEQNUM" not in text for event in by_number[5]["uevents"] for text in event)
    end, _ = [line for line in lines if line["op"] == "async_end"]
    assert end["exit"] == -9
    assert "<4>migrating pfn <pfn> failed ret:200" in end["dmesg"]
    assert len(end["dmesg"]) == len(set(end["dmesg"]))


@pytest.mark.parametrize(
    ("own", "kind"), [(4_000_000, Kind.REPRODUCED), (4_000_004, Kind.MISMATCH), (None, Kind.MISMATCH)]
)
def test_memtotal_at_boot_is_that_of_the_recording(own: int | None, kind: Kind, tmp_path: Path) -> None:
    """machine.json has that of the guest on which the first recordings were made."""
    session = _session(tmp_path, [{"op": "memtotal", "i": 1, "kB": 4_000_000}])
    if own is not None:
        session.header[player.MEMTOTAL] = own
    facts = {player.MEMTOTAL: 3_999_996}
    report = player.replay(session, ModelTarget(boot(machine_and_kernel("7.3", "default"))), facts)
    assert [line.verdict.kind for line in report.lines] == [kind]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("frobnicate x", "line 1: 'frobnicate x' is no operation"),
        ("write /sys/x", "write takes 2 words"),
        ("read", "read takes 1 or 2 words"),
        ("read /sys/x none", "the second word of read is `all`, or is left out"),
        ("write /sys/x 'open", "No closing quotation"),
        ("poll one", "invalid literal"),
        ("poll 1", "line 1: 'poll 1' is no operation \\(no write 1 has started: `start 1 PATH TEXT`\\)"),
        ("signal 2", "no write 2 has started"),
        ("start 1 /sys/x a\nend 1\nend 1", "line 3: .*no write 1 has started"),
        ("start 1 /sys/x a\nstart 1 /sys/x b", "line 2: .*has started already: end it first"),
        ("bytes /sys/x a\\0", "quote the TEXT"),
        ("bytes /sys/x 'a'\\0", "quote the TEXT"),
        ("bytes /sys/x '\\u20ac'", "'latin-1' codec"),
    ],
)
def test_a_wrong_line_is_named(line: str, reason: str) -> None:
    with pytest.raises(ScriptError, match=reason):
        list(parse(line))


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ("write /sys/x é", "é\n".encode()),
        ("bytes /sys/x é", "é".encode()),
        ("bytes /sys/x '\\xe9\\0'", b"\xe9\0"),
        ('bytes /sys/x "a\\n"', b"a\n"),
    ],
)
def test_text_is_utf_8_and_escapes_are_bytes(line: str, data: bytes) -> None:
    (operation,) = parse(line)
    assert operation["data"].encode("latin-1") == data


def test_a_write_in_the_background_takes_the_same_text_as_a_write() -> None:
    written, started = parse("write /sys/x é\nstart 1 /sys/x é")
    assert ast.literal_eval(started["data"]) == written["data"]


def test_an_output_that_was_there_is_kept_until_there_is_another(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("blocks\n", encoding="ascii")
    (tmp_path / "old").write_text("old\n", encoding="ascii")
    for name in ("old", "new"):
        arguments = ["-o", str(tmp_path / name), "--kernel-image", f"{tmp_path}/", str(tmp_path / "script")]
        assert record.main(arguments) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "script"]
    assert (tmp_path / "old").read_text(encoding="ascii") == "old\n"


def test_an_operation_that_cannot_be_recorded_is_named() -> None:
    with pytest.raises(NotSupportedError, match="operation 1: race cannot be recorded"):
        list(Recorder(ModelTarget(boot(machine_and_kernel("7.3", "default")))).record([{"op": "race"}]))


def test_the_command_refuses_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main([str(tmp_path / "nothing")]) == 2
    (tmp_path / "script").write_text("nonsense\n", encoding="ascii")
    assert record.main([str(tmp_path / "script")]) == 2
    assert record.main(["--kernel-image", str(tmp_path), str(tmp_path / "script")]) == 2
    (tmp_path / "script").write_text("blocks\n", encoding="ascii")
    assert record.main(["--kernel-image", f"{tmp_path}/", str(tmp_path / "script")]) == 1
    assert record.main(["-o", str(tmp_path), str(tmp_path / "script")]) == 2
    assert record.main(["-o", str(tmp_path / "no/out"), str(tmp_path / "script")]) == 2
    (tmp_path / "script").write_bytes(b"write /sys/x \xe9\n")
    assert record.main([str(tmp_path / "script")]) == 2
    said = capsys.readouterr().err
    assert "No such file" in said
    assert f"{tmp_path}: Is a directory: name another file with -o" in said
    assert "no/out: No such file or directory: name another file with -o" in said
    assert "the script is not UTF-8 text" in said
    assert "'nonsense' is no operation" in said
    assert "has no vmlinuz" in said


def test_the_series_of_a_kernel_is_the_profile() -> None:
    assert KernelImage("7.3~rc7-1~exp1", Path("/x/7.3-amd64")).series == "7.3"
    assert KernelImage("7.2.13-1", Path("/x/7.2.13+deb14-amd64")).series == "7.2"


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("distribution", "7.3-distribution"),
        ("distribution-cpus", "7.3-distribution"),
        ("distribution-hmat", "7.3-distribution"),
        ("default", "7.3"),
        ("boot-policy-online", "7.3"),
        ("cxl", "7.3"),
    ],
)
def test_a_recording_says_which_configuration_its_machine_has(name: str, profile: str) -> None:
    """The guest says it, not its name."""
    image = KernelImage("7.3~rc7-1~exp1", Path("/x/7.3-amd64"))
    assert record.profile(replace(GUESTS[name], name="x"), image) == profile


@pytest.mark.parametrize("name", ["EHWPOISON", "133", 133])
def test_an_errno_without_a_name_in_python_is_read_in_either_form(name: str | int) -> None:
    assert errno_number(name) == EHWPOISON
    assert errno_name(errno_number(name)) == "EHWPOISON"


def test_names_of_errnos_are_read() -> None:
    assert errno_number("EAGAIN") == errno_number("EWOULDBLOCK") == errno.EAGAIN
    assert (errno_name(600), errno_number("600"), errno_name(None)) == ("600", 600, "None")
    with pytest.raises(ValueError, match="ENOTHING"):
        errno_number("ENOTHING")


def test_an_answer_of_a_poisoned_page_is_recorded_by_name() -> None:
    """Also where Python has no name for it: another Python replays it."""
    assert record._outcome(Outcome(errno=EHWPOISON)) == {"errno": "EHWPOISON"}
    assert kernel_target._name(Answer(-EHWPOISON, 0, ())) == "EHWPOISON"


def test_changes_are_shown_by_operations(tmp_path: Path) -> None:
    """`changes` becomes stat, ls and read of what came, changed and went since the one before."""
    sysroot = boot(machine_and_kernel("7.3", "t1"))
    recorder = Recorder(ModelTarget(sysroot))
    script = """
    sh modprobe cxl_acpi
    changes
    write /sys/bus/cxl/devices/decoder0.0/create_ram_region region0
    changes
    write /sys/bus/cxl/devices/region0/interleave_ways 1
    changes
    write /sys/bus/cxl/devices/decoder0.0/delete_region region0
    changes
    changes
    """
    lines = list(recorder.record(list(parse(script))))
    notes = [position for position, line in enumerate(lines) if line["op"] == "note"]
    found = [
        [(line["op"], line["path"].rpartition("/")[2]) for line in lines[start + 2 : end]]
        for start, end in itertools.pairwise(notes)
    ]
    assert {("read", "create_ram_region"), ("ls", "decoder0.0"), ("stat", "region0")} <= set(found[0])
    assert found[1] == [("ls", "region0"), ("read", "interleave_ways"), ("stat", "target0"), ("read", "target0")]
    assert ("stat", "region0") in found[2]
    assert lines[-1]["text"].startswith("cxl state: 0 of ")
    report = player.replay(_session(tmp_path, lines), ModelTarget(boot(machine_and_kernel("7.3", "t1"))), None)
    assert list(report.details()) == []
