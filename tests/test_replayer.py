"""The replayer itself: it reads every recording, compares, and reports each difference."""

from __future__ import annotations

import copy
import fnmatch
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakesysfs.ops.sched import Answer, Mutex, Operation, Preempt, Signals, Sleep, Wait, WaitQueue, ask
from fakesysfs.replay import bash, cli, concurrent, daxctl_versions, isolated, player, raw, recipes, snapshots
from fakesysfs.replay.messages import Comparison, Stream
from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel, with_memdevs
from fakesysfs.replay.normalise import (
    NORMALISATIONS,
    Context,
    Normalisation,
    for_command,
    normalise,
    version_differences,
    without_mailbox,
)
from fakesysfs.replay.recording import (
    INFORMATIVE,
    KINDS,
    RecordingError,
    Session,
    Snapshot,
    default_places,
    find,
    load,
)
from fakesysfs.replay.report import Kind, Line, Report, Verdict, by_kernel, not_compared, totals
from fakesysfs.replay.target import (
    FileStatus,
    Messages,
    NotRunError,
    NotSupportedError,
    Outcome,
    Process,
    RaceResult,
    RaceWriter,
    ShellResult,
    Target,
    ToolAbsentError,
)
from fakesysfs.testing.tasks import Signal, Task, Tasks

RECORDINGS = Path(__file__).resolve().parent / "recordings"
needs_recordings = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no recordings here")


def recordings() -> Iterator[Session | Snapshot]:
    for path in find([RECORDINGS]):
        yield load(path)


# Reading ----------------------------------------------------------------------------------------------------------


@needs_recordings
def test_every_recorded_line_is_read_and_of_a_known_kind() -> None:
    sessions = [recording for recording in recordings() if isinstance(recording, Session)]
    kinds = {operation["op"] for session in sessions for operation in session.operations}
    assert len(sessions) > 30
    assert kinds <= KINDS


@needs_recordings
def test_every_recorded_kind_has_a_handler_or_asks_for_nothing() -> None:
    session = Session(Path("x"), {"profile": "7.2", "name": "x", "variant": "default"}, [])
    handlers = player.Player(session, Quiet({}), None).handlers
    assert KINDS - set(handlers) == INFORMATIVE


@needs_recordings
def test_every_snapshot_has_a_recipe_and_compared_paths() -> None:
    for recording in recordings():
        if isinstance(recording, Snapshot):
            assert recipes.recipe_of(recording.header) is not None, recording.name
            assert sum(map(snapshots.is_compared, recording.entries)) > 300


def test_what_a_session_compares_is_known_before_it_is_replayed() -> None:
    lines: list[dict[str, Any]] = [
        {"op": "note"},
        {"op": "timed", "label": "x"},
        {"op": "race", "writers": [["a", "/a", ["1"]], ["b", "/b", ["2"]]]},
        {"op": "read", "path": "/a"},
        {"op": "write", "path": "/a"},
        {"op": "read", "path": "/a"},
        {"op": "bg", "cmd": "sleep 9"},
        {"op": "bg_kill"},
        {"op": "bg", "cmd": "numactl --membind=2 x fixture:kalloc"},
        {"op": "bg_kill"},
    ]
    assert [index for index, _ in player.compared_operations(lines)] == [2, 4, 5, 8, 9]


@needs_recordings
def test_each_path_that_is_not_compared_is_recorded() -> None:
    paths = {path for recording in recordings() if isinstance(recording, Snapshot) for path in recording.entries}
    unused = [pattern for pattern, _ in snapshots.NOT_COMPARED if not fnmatch.filter(paths, pattern)]
    assert unused == []


@needs_recordings
def test_every_raw_operation_has_calls_or_a_label_that_is_known() -> None:
    for recording in recordings():
        if isinstance(recording, Session):
            for index, operation in enumerate(recording.operations):
                if operation["op"] == "raw" and not operation.get("calls"):
                    assert raw.labelled(operation["label"]) or concurrent.pinned_index(recording.operations, index)


HEADER = '{"op": "header", "profile": "7.2", "name": "x", "variant": "default"}\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"op": "note"}', "the key 'profile' is missing"),
        ('{"a": 1}', "the key 'profile' is missing"),
        ("[" * 100_000, r"x\.jsonl:1: the value is nested too deeply"),
        ('{"op": ' * 100_000, r"x\.jsonl:1: the value is nested too deeply"),
        ("[" * 300 + "]" * 300, r"x\.jsonl:1: the value is nested too deeply"),
        (
            f'{HEADER}{{"op": "note"}}\n{{"op": "note", "text": {"[" * 65}{"]" * 65}}}',
            ":3: the value is nested too deeply",
        ),
    ],
)
def test_what_is_no_recording_is_refused_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(RecordingError, match=why):
        load(path)
    assert cli.main([str(path)]) == 2


@pytest.mark.parametrize(
    ("text", "why"), [("[" * 100_000, "the value is nested too deeply"), ("{", "the text is not JSON")]
)
def test_a_wrong_machine_json_is_refused_with_its_place(
    tmp_path: Path, text: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jsonl").write_text(HEADER)
    facts = tmp_path / "machine.json"
    facts.write_text(text)
    assert cli.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fakesysfs replay: {facts}: {why}")
    assert said.count("\n") == 1


def test_deep_but_not_too_deep(tmp_path: Path) -> None:
    """Many brackets are no depth."""
    path = tmp_path / "x.jsonl"
    path.write_text(HEADER + '{"op": "note", "text": [' + ", ".join(["[]"] * 1000) + "]}")
    assert len(load(path).operations) == 1  # type: ignore[union-attr]  # a session


def test_places_without_recordings_are_refused(tmp_path: Path) -> None:
    assert cli.main([str(tmp_path)]) == 2
    assert default_places(tmp_path) == []


BUILT = "<6>Built {} zonelists, mobility grouping on.  Total pages: {}"
RAM, PCI = "100000000-17fffffff : System RAM", "000a0000-000bffff : PCI Bus 0000:00"


# Normalising ------------------------------------------------------------------------------------------------------


def test_every_normalisation_gives_a_reason_and_a_stream() -> None:
    assert {entry.stream for entry in NORMALISATIONS} == {"dmesg", "uevents", "iomem", "text", "stderr"}
    assert all(len(entry.reason) >= 8 for entry in NORMALISATIONS)


@pytest.mark.parametrize(
    ("stream", "left", "right"),
    [
        ("dmesg", [BUILT.format(4, 1)], [BUILT.format(4, 2)]),
        ("dmesg", ["<4>do_migrate_range: <n> callbacks suppressed"], []),
        ("text", "Memory block size:       128M\n", "Memory block size:                128M\n"),
        ("text", "Total offline memory:      0B\n", "Total offline memory:               0B\n"),
        ("text", "node   0   1 \n  0:  10  15 \n", "node     0    1 \n   0:   10   15 \n"),
        ("dmesg", ["<4>page dumped because: unmovable page"], ["<4>page dumped because: unmovable page"] * 3),
        (
            "dmesg",
            ["<4>WARNING: drivers/dax/kmem.c:<line> at f [kmem]"],
            ["<4>WARNING: drivers/dax/kmem.c:301 at f [kmem]"],
        ),
        (
            "uevents",
            [["add@/a", "ACTION=add"]],
            [["add@/a", "ACTION=add", "SEQNUM=3"], ["add@/module/kmem", "ACTION=add"]],
        ),
        ("dmesg", [], ["<4>nd_pmem namespace0.0: unable to guarantee persistence of writes"]),
        ("uevents", [], [["add@/x/ndbus0", "ACTION=add", "DEVPATH=/x/ndbus0", "SUBSYSTEM=nd"]]),
        ("iomem", [RAM], [PCI, RAM]),
        (
            "text",
            "-rw-r--r-- 1 root root 4096 Nov 22 10:29 align\n",
            "-rw-r--r-- 1 root root 4096 Jan  1 00:00 align\n",
        ),
        ("text", "node 0 size: 1 MB\nnode 0 free: 3 MB\n", "node 0 size: 1 MB\n"),
        ("text", "MemTotal:  4 kB\nBuffers:  3 kB\n", "MemTotal:  4 kB\nBuffers:  0 kB\n"),
        ("text", "a/meminfo:Node 2 Active(anon):  3 kB\n", ""),
        (
            "uevents",
            [["add@/d/region0/dax_region0"], ["bind@/d/region0"], ["add@/d/region0/dax_region0/dax0.0"]],
            [["add@/d/region0/dax_region0"], ["add@/d/region0/dax_region0/dax0.0"], ["bind@/d/region0"]],
        ),
        ("stderr", "No TPM handle discovered.\n", ""),
    ],
)
def test_what_may_differ_is_equal(stream: str, left: object, right: object) -> None:
    assert normalise(stream, left, Context()) == normalise(stream, right, Context())


@pytest.mark.parametrize(
    ("stream", "left", "right"),
    [
        ("dmesg", [BUILT.format(4, 1)], [BUILT.format(3, 1)]),
        ("dmesg", ["<6>Policy zone: Normal"], ["<5>Policy zone: Normal"]),
        ("uevents", [["add@/a", "ACTION=add"]], [["add@/a", "ACTION=add", "DRIVER=kmem"]]),
        ("iomem", ["100000000-17fffffff : System RAM"], ["  100000000-17fffffff : System RAM"]),
        ("iomem", ["100000000-17fffffff : dax0.0"], ["100000000-17fffffff : node2"]),
        ("text", "-rw-r--r-- 1 root root 4096 Nov 22 10:29 align\n", "-rw-r--r-- 1 root root 4096 Nov 22 10:29 size\n"),
        ("text", "MemTotal:  4 kB\n", "MemTotal:  5 kB\n"),
        ("text", "Node 2 HugePages_Free:     5\n", "Node 2 HugePages_Free:     4\n"),
        ("text", "nr_free_pages 5\n", "nr_free_pages 4\n"),
    ],
)
def test_what_must_not_differ_stays_different(stream: str, left: object, right: object) -> None:
    assert normalise(stream, left, Context()) != normalise(stream, right, Context())


BUILT_1, WARNED = "<6>Built 4 zonelists. Total pages: 1", "<4>WARNING: drivers/dax/kmem.c:{} at f [kmem]"
DUMP, MOVING = "<4>page dumped because: unmovable page", "<4>migrating pfn 1 failed ret:200"
ADDED, FILE = ["add@/devices/a", "ACTION=add"], "-rw-r--r-- 1 root root 4096 {} align\n"
HIDDEN: dict[tuple[str, str], tuple[object, object, object]] = {
    ("total pages", "dmesg"): ([BUILT_1], [BUILT_1.replace(": 1", ": 2")], [BUILT_1.replace("4", "3")]),
    ("migration bursts", "dmesg"): ([MOVING], [], [MOVING, DUMP]),
    ("dumps", "dmesg"): ([DUMP], [DUMP] * 3, []),
    ("line of a WARN", "dmesg"): ([WARNED.format(3)], [WARNED.format(4)], [WARNED.format(3).replace("kmem", "bus")]),
    ("nd bus", "dmesg"): (["<6>nd_pmem pfn0.1: x"], [], ["<6>kmem dax0.0: x"]),
    ("SEQNUM", "uevents"): ([[*ADDED, "SEQNUM=1"]], [[*ADDED, "SEQNUM=2"]], [[*ADDED, "DRIVER=kmem"]]),
    ("modules", "uevents"): ([["add@/module/kmem"]], [], [["add@/bus/dax/drivers/kmem"]]),
    ("nd bus", "uevents"): ([["add@/bus/nd/drivers/nd_pmem"]], [], [["add@/bus/dax/drivers/kmem"]]),
    ("bind of a CXL region", "uevents"): (
        [["add@/d/region0/dax_region0"], ["bind@/d/region0"], ["add@/d/region0/dax_region0/dax0.0"]],
        [["add@/d/region0/dax_region0"], ["add@/d/region0/dax_region0/dax0.0"], ["bind@/d/region0"]],
        [["bind@/d/region0"], ["add@/d/region0/dax_region0"], ["add@/d/region0/dax_region0/dax0.0"]],
    ),
    ("iomem lines", "iomem"): ([PCI, RAM], [RAM], [RAM.replace("1", "2")]),
    ("freed names", "iomem"): ([f"{RAM[:-10]}dax0.0"], [f"{RAM[:-10]}kkkk"], [RAM]),
    ("low iomem", "text"): (f"{PCI}\n{RAM}", RAM, PCI),
    ("dates of ls", "text"): (FILE.format("Nov 22 10:29"), FILE.format("Jan  1 00:00"), FILE.format("4")),
    ("free memory", "text"): ("node 0 free: 1 MB\n", "", "node 0 size: 1 MB\n"),
    ("columns", "text"): ("node   0   1 \n", "node     0    1 \n", "node   0   2 \n"),
    ("used memory", "text"): ("Buffers:  3 kB\n", "", "MemTotal:  3 kB\n"),
    ("counters", "text"): ("nr_free_pages 5\n", "", "nr_memmap_pages 5\n"),
    ("managed pages", "text"): ("        managed  5\n", "        managed  6\n", "        present  5\n"),
    ("modules' messages", "stderr"): ("modprobe: FATAL", "", None),
    ("shell", "stderr"): (
        "bash: line 1: echo: write error: File exists\n",
        "sh: write error: File exists\n",
        "sh: write error: I/O error\n",
    ),
    ("keys of persistent memory", "stderr"): ("No TPM handle discovered.\n", "", "No region discovered.\n"),
}
"""Each entry: an answer, another one that is equal with it, and one that must stay different."""


@pytest.mark.parametrize(
    ("bash", "busybox"),
    [
        ("bash: line 1: /sys/a: Permission denied\n", "sh: can't create /sys/a: Permission denied\n"),
        ("bash: line 3: /sys/a: No such file or directory\n", "sh: can't create /sys/a: nonexistent directory\n"),
        ("cat: /sys/a:00/b: Permission denied\n", "cat: can't open '/sys/a:00/b': Permission denied\n"),
        ("cat: /sys/a: Invalid argument\n", "cat: read error: Invalid argument\n"),
        ("ls: cannot access '/sys/a': No such file or directory\n", "ls: /sys/a: No such file or directory\n"),
    ],
)
def test_two_shells_say_the_same_in_other_words(bash: str, busybox: str) -> None:
    assert normalise("stderr", bash, Context()) == normalise("stderr", busybox, Context())
    changed = busybox.rpartition(":")[0] + ": Input/output error\n"
    assert normalise("stderr", bash, Context()) != normalise("stderr", changed, Context())


def test_of_cxl_only_what_needs_an_ioctl_may_be_absent() -> None:
    recorded = '[{"memdev":"mem0", "health":{"media_normal":true}, "ram_size":1}]'
    absent = "libcxl: do_cmd: failed to open /dev/cxl/mem0: Permission denied\n"
    assert without_mailbox(recorded, "") == without_mailbox('[{"memdev":"mem0", "ram_size":1}]', absent)
    assert without_mailbox(recorded, "") != without_mailbox('[{"memdev":"mem0", "ram_size":2}]', absent)
    assert without_mailbox(recorded, "") != without_mailbox('[{"memdev":"mem0", "ram_size":1}]', "cxl: no\n")
    assert without_mailbox("usage: cxl\n", "") != without_mailbox("usage: ndctl\n", "")


@pytest.mark.parametrize("entry", NORMALISATIONS, ids=lambda entry: f"{entry.name} ({entry.stream})")
def test_each_normalisation_hides_something_but_not_a_changed_answer(entry: Normalisation) -> None:
    left, right, altered = HIDDEN[entry.name, entry.stream]
    everything = Context(names_freed=True, module_command=True, counters=True, other_build=True)
    assert left != right
    assert entry.apply(left, everything) == entry.apply(right, everything)
    if altered is None:  # it hides all of its stream, of the commands that load modules and of no other
        assert entry.apply(left, Context()) == left
    else:
        assert entry.apply(altered, everything) != entry.apply(left, everything)


@pytest.mark.parametrize(
    ("recorded", "own", "agree"),
    [
        ("rc=0\nmodule 4096 1\n", "rc=0\nmodule 8192 0\n", True),
        ("rc=0\nmodule 4096 1\n", "rc=1\nmodule 4096 1\n", False),
        ("rc=0\n", "rc=0\nmodule 4096 1\n", True),
        ("", "rc=0\n", False),
    ],
)
def test_of_a_line_of_several_commands_only_the_output_that_depends_on_the_guest_is_left_out(
    recorded: str, own: str, *, agree: bool
) -> None:
    """`echo` is compared, `lsmod` is not."""

    class Shell(Quiet):
        def sh(self, command: str, tool: str | None) -> ShellResult:
            del tool
            first, _, rest = own.partition("\n")
            assert command.startswith("echo rc=0; ")
            return ShellResult(0, f"{first}\n\0{rest}", "")

    line = {"op": "sh", "cmd": "echo rc=0; lsmod | grep inject", "rc": 0, "stdout": recorded, "stderr": ""}
    session = Session(Path("x"), {"profile": "7.3", "name": "toy", "variant": "default"}, [line])
    assert player.replay(session, Shell({}), None).reproduced == agree


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("a; b | c; d", ["a", "b | c", "d"]),
        ("grep ';' x; echo \"a; b\"", ["grep ';' x", 'echo "a; b"']),
        ("for i in 1 2; do a; done; b", ["for i in 1 2; do a; done; b"]),
        ("(a; b); c", ["(a; b); c"]),
    ],
)
def test_the_parts_of_a_line(command: str, parts: list[str]) -> None:
    assert bash.parts(command) == parts


@pytest.mark.parametrize("command", ["echo a; false; echo $?", "false; true", "true; false", "echo 'a;b'; exit 3"])
def test_marks_change_neither_output_nor_status(command: str) -> None:
    plain, marked = (
        subprocess.run(["bash", "-c", line], capture_output=True, check=False)
        for line in (command, bash.with_marks(command))
    )
    assert marked.stdout.replace(b"\0", b"") == plain.stdout
    assert (marked.returncode, marked.stderr) == (plain.returncode, plain.stderr)
    assert marked.stdout.count(b"\0") == len(bash.parts(command)) - 1


def test_of_counters_only_what_the_machine_determines_is_compared() -> None:
    context = Context()
    for_command(context, "grep -H . /proc/zoneinfo /proc/vmstat", {"grep"})
    text = """Node 2, zone  Movable
  pages free     5
        min      1
  pagesets
        spanned  32768
        present  32768
        protection: (0, 0, 0, 0, 0)
      nr_free_pages 5
  start_pfn:           1572864
  node_unreclaimable:  0
/proc/vmstat:pgalloc_normal 3
/proc/vmstat:nr_memmap_pages 512
"""
    kept = [line.split()[0] for line in str(normalise("text", text, context)).splitlines()]
    assert kept == ["Node", "spanned", "present", "start_pfn:", "/proc/vmstat:nr_memmap_pages"]
    for_command(context, "cat /proc/iomem", {"cat"})
    assert normalise("text", text, context) == text


def test_a_freed_name_may_be_anything_but_its_range_not() -> None:
    freed = Context(names_freed=True)
    left, right = ["200000000-23fffffff : dax0.0"], ["200000000-23fffffff : kkkk"]
    assert normalise("iomem", left, freed) == normalise("iomem", right, freed)
    assert normalise("iomem", left, freed) != normalise("iomem", ["200000000-24fffffff : kkkk"], freed)


def test_a_row_of_ends_is_one_stream() -> None:
    stream = Stream("uevents")
    assert stream.compare(["a"], ["a", "b"], last=False) == []
    assert stream.compare(["b"], [], last=True) == []
    assert stream.compare(["a", "b"], ["a"], last=False) == []
    assert stream.compare([], ["b"], last=True) == []
    assert stream.compare(["a"], ["a", "b"], last=False) == []
    assert stream.compare([], [], last=True) != []
    assert stream.compare(["a"], ["b"], last=False) != []


def test_reports_of_unmovable_pins_must_come_once_and_only_where_recorded() -> None:
    burst = "<4>page dumped because: migration failure"
    comparison = Comparison(Context(), leak_frees_name=False)
    assert comparison.compare({"dmesg": [burst]}, Messages()) != []
    assert comparison.compare({}, Messages([burst])) != []
    assert comparison.compare({"dmesg": [burst]}, Messages([burst, burst])) == []
    assert comparison.compare({"dmesg": [burst]}, Messages()) == []
    assert comparison.compare({}, Messages([burst]), last=False) == [], (
        "of the line behind, which ends together with it"
    )
    assert comparison.compare({"dmesg": [burst]}, Messages()) == []
    assert comparison.compare({}, Messages([burst]), last=False) == []
    assert comparison.compare({}, Messages()) != [], "no line of the row has any"


# Tasks ------------------------------------------------------------------------------------------------------------


async def wait_once(queue: WaitQueue, signals: Signals) -> Answer:
    return await ask(Wait("test", queue, signals))


def test_a_task_waits_until_it_is_woken() -> None:
    tasks, queue = Tasks(), WaitQueue()
    task = tasks.spawn(wait_once(queue, Signals.NONE))
    assert not tasks.finish(task)
    assert task.letter == "D"
    queue.wake_all()
    assert tasks.finish(task)
    assert (task.letter, task.outcome()) == ("finished", Answer.WOKEN)


@pytest.mark.parametrize(
    ("signals", "signal", "ends"),
    [
        (Signals.ANY, Signal.SIGALRM, True),
        (Signals.ANY, Signal.SIGKILL, True),
        (Signals.FATAL, Signal.SIGALRM, False),
        (Signals.FATAL, Signal.SIGKILL, True),
        (Signals.NONE, Signal.SIGALRM, False),
        (Signals.NONE, Signal.SIGKILL, False),
    ],
)
def test_which_signals_end_which_waits(signals: Signals, signal: Signal, *, ends: bool) -> None:
    tasks, queue = Tasks(), WaitQueue()
    task = tasks.spawn(wait_once(queue, signals))
    tasks.settle()
    assert task.letter == ("R" if signals is Signals.ANY else "D")
    tasks.signal(task, signal)
    assert tasks.finish(task) is ends
    if ends:
        assert task.outcome() is Answer.INTERRUPTED
        assert len(queue) == 0
    assert task.killed is (signal is Signal.SIGKILL)


@pytest.mark.parametrize(("signal", "killed"), [(Signal.SIGALRM, False), (Signal.SIGKILL, True)])
def test_a_signal_that_came_too_early_is_pending(signal: Signal, *, killed: bool) -> None:
    tasks, first, second = Tasks(), WaitQueue(), WaitQueue()

    async def operation() -> Answer:
        await ask(Wait("deaf", first, Signals.NONE))
        return await ask(Wait("hears", second, Signals.ANY))

    task = tasks.spawn(operation())
    tasks.settle()
    tasks.signal(task, signal)
    first.wake_all()
    assert tasks.finish(task)
    assert task.outcome() is Answer.INTERRUPTED
    assert task.killed is killed


def test_time_passes_only_where_nothing_else_can_happen() -> None:
    tasks, queue = Tasks(), WaitQueue()

    async def sleeper() -> float:
        await ask(Sleep("test", 30.0))
        queue.wake_all()
        return tasks.now

    woken = tasks.spawn(wait_once(queue, Signals.NONE))
    slept = tasks.spawn(sleeper())
    tasks.settle()
    assert tasks.now == 0
    assert not tasks.finish(woken, until=10)
    assert tasks.finish(woken)
    assert slept.outcome() == 30.0
    tasks.advance(5)
    assert tasks.now == 35.0


def test_a_mutex_is_passed_on_in_order_and_a_failure_is_the_tasks_own() -> None:
    tasks, mutex, order = Tasks(), Mutex("m"), list[int]()

    async def holder(number: int) -> None:
        async with mutex:
            order.append(number)
            await ask(Preempt("inside"))
            if number == 1:
                raise ValueError(number)

    started = [tasks.spawn(holder(number)) for number in range(4)]
    tasks.settle()
    assert order == [0, 1, 2, 3]
    assert isinstance(started[1].error, ValueError)
    with pytest.raises(ValueError, match="1"):
        started[1].outcome()
    assert tasks.tasks == []


def test_a_chooser_gives_another_order_but_always_the_same() -> None:
    def chooser(seed: int | None) -> random.Random | None:
        return None if seed is None else random.Random(seed)  # noqa: S311  a schedule, no secret

    def order(seed: int | None) -> list[int]:
        tasks, seen = Tasks(chooser(seed)), list[int]()

        async def step(number: int) -> None:
            for _ in range(5):
                await ask(Preempt("test"))
                seen.append(number)

        for number in range(3):
            tasks.spawn(step(number))
        tasks.settle()
        return seen

    assert order(None) == [0, 1, 2] * 5
    assert order(7) == order(7) != order(None)


def test_an_operation_may_be_any_coroutine() -> None:
    async def operation() -> int:
        return 3

    made: Operation[int] = operation()
    task: Task = Tasks().spawn(made)
    assert not task.finished
    task.operation.close()


# Replaying ----------------------------------------------------------------------------------------------------------


class Ended(Process):
    """A process of `Quiet`: it has always ended."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    @property
    def letter(self) -> str:
        return "finished"

    def outcome(self) -> Outcome:
        return self._outcome


class Quiet(Target):
    """A machine that is a dictionary of files. It logs each write."""

    through_mount = False
    owner_is_root = True

    def __init__(self, files: dict[str, str]) -> None:
        self.files = {"/proc/meminfo": "MemTotal:  100 kB\n", **files}
        self.open_files: dict[int, str] = {}
        self.messages = Messages()
        self.stands_in: str | None = None

    def open(self, path: str, flags: int) -> int:
        del flags
        if path not in self.files:
            raise FileNotFoundError(2, path)
        number = max(self.open_files, default=2) + 1
        self.open_files[number] = path
        return number

    def close(self, descriptor: int) -> None:
        del self.open_files[descriptor]

    def read(self, descriptor: int, size: int, offset: int | None = None) -> bytes:
        path = self.open_files[descriptor]
        text = self.files[path].encode("latin-1")[offset or 0 :][:size]
        if path == "/proc/meminfo":
            self.open_files[descriptor] = "/read"
            self.files["/read"] = ""
        return text

    def write(self, descriptor: int, data: bytes, offset: int | None = None) -> int:
        del offset
        self.files[self.open_files[descriptor]] = data.decode("latin-1")
        self.messages.dmesg.append(f"<6>kmem wrote {data.decode().strip()}")
        return len(data)

    def stat(self, path: str) -> FileStatus:
        if path not in self.files:
            raise FileNotFoundError(2, path)
        return FileStatus(0o100644, 1, 0, 0, 4096)

    def readlink(self, path: str) -> str:
        raise OSError(22, path)

    def ls(self, path: str) -> list[str]:
        return sorted({name[len(path) + 1 :].split("/")[0] for name in self.files if name.startswith(path + "/")})

    def call(self, name: str, *arguments: object) -> object:
        raise NotSupportedError(f"{name}{arguments}")

    def sh(self, command: str, tool: str | None) -> ShellResult:
        if tool and self.stands_in is None:
            raise NotSupportedError("no tools")
        if "selftest" in command:
            raise NotRunError("selftest absent", rest=True)
        return ShellResult(0, "out\n", "", self.stands_in)

    def spawn(self, path: str, data: bytes, alarm: float = 0) -> Process:
        del alarm
        return Ended(self.write_file(path, data, 1))

    def signal(self, process: Process, signal: Signal) -> None:
        del process, signal

    def wait(self, process: Process) -> bool:
        del process
        return True

    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        del reads
        return RaceResult({(writer.name, data, "ok") for writer in writers for data in writer.data}, {b"online\n"})

    def drain(self) -> Messages:
        arrived, self.messages = self.messages, Messages()
        return arrived

    def fixture(self, what: str, node: int | None) -> None:
        del what, node

    def end(self) -> None:
        self.files.clear()


FILE = "/sys/bus/dax/devices/dax0.0/state"
RECORDED_BUS = ["drivers_probe", "devices", "drivers", "drivers_autoprobe", "uevent"]


@pytest.fixture
def loaded_guest() -> Iterator[ModelTarget]:
    """The recorded guest with its two regions, on kmem."""
    target = ModelTarget(boot(machine_and_kernel("7.2", "default")))
    target.sh("modprobe dax_hmem; modprobe kmem", None)
    yield target
    target.end()


NOTHING: dict[str, Any] = {"dmesg": [], "uevents": []}
LINES: list[dict[str, Any]] = [
    {"op": "read", "path": FILE, "off": None, "data": "offline\n"},
    {"op": "stat", "path": FILE, "mode": "0o100644", "size": 4096, "uid": 0, "gid": 0, "nlink": 1},
    {"op": "stat", "path": FILE + "x", "errno": "ENOENT"},
    {
        "op": "write",
        "path": FILE,
        "data": "online\n",
        "len": 7,
        "flags": 1,
        "off": None,
        "ret": 7,
        "dmesg": ["<6>kmem wrote online"],
        "uevents": [],
    },
    {
        "op": "write",
        "path": FILE + "x",
        "data": "online\n",
        "len": 7,
        "flags": 1,
        "off": None,
        "open_errno": "ENOENT",
        **NOTHING,
    },
    {"op": "ls", "path": "/sys/bus/dax/devices/dax0.0", "names": ["state"]},
    {"op": "note", "text": "a title"},
    {"op": "sh", "cmd": "echo out", "rc": 0, "stdout": "out\n", "stderr": "", **NOTHING},
    {"op": "memtotal", "kB": 100},
    {
        "op": "raw",
        "label": "read",
        "calls": [
            {"fn": "open", "args": [FILE, 0], "kw": {}, "ret": "fd1"},
            {"fn": "read", "args": ["fd1", 3], "kw": {}, "ret": "onl"},
        ],
        **NOTHING,
    },
    {"op": "async_start", "id": 1, "path": FILE, "data": "'offline\\n'", "alarm_s": 0},
    {"op": "async_poll", "id": 1, "task": "finished"},
    {"op": "async_end", "id": 1, "ret": 8, "dmesg": ["<6>kmem wrote offline"], "uevents": []},
    {
        "op": "race",
        "title": "",
        "sec": 1,
        "writers": [["A", FILE, ["online\n"]]],
        "stats": [],
        "reads": {"online": 1},
        "n_uevents": 0,
    },
]


def session(lines: list[dict[str, Any]]) -> Session:
    header = {"op": "header", "profile": "7.3", "name": "toy", "variant": "default"}
    return Session(Path("toy.jsonl"), header, copy.deepcopy(lines))


def replayed(lines: list[dict[str, Any]]) -> Report:
    return player.replay(session(lines), Quiet({FILE: "offline\n"}), None)


def test_a_session_that_fits_is_reproduced() -> None:
    report = replayed(LINES)
    assert list(report.details()) == []
    assert report.summary() == "7.3/toy: 13 of 13 operations reproduced"
    assert list(totals([report, report])) == ["total: 26 of 26 operations reproduced"]


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (0, "data", "online\n"),
        (1, "mode", "0o100444"),
        (1, "nlink", 2),
        (1, "errno", "EACCES"),
        (2, "errno", "EACCES"),
        (3, "ret", 6),
        (3, "errno", "EBUSY"),
        (3, "dmesg", []),
        (3, "dmesg", ["<4>kmem wrote online"]),
        (3, "uevents", [["add@/x", "ACTION=add", "DEVPATH=/x"]]),
        (4, "open_errno", "EACCES"),
        (5, "names", ["hotplug", "state"]),
        (5, "names", []),
        (7, "rc", 1),
        (7, "stdout", "in\n"),
        (9, "calls", [{"fn": "open", "args": [FILE, 0], "errno": "EACCES"}]),
        (11, "task", "D"),
        (12, "ret", 7),
        (12, "exit", -9),
        (12, "dmesg", []),
    ],
)
def test_a_line_that_says_something_else_is_a_mismatch(line: int, key: str, value: object) -> None:
    changed = copy.deepcopy(LINES)
    changed[line][key] = value
    report = replayed(changed)
    assert report.count(Kind.MISMATCH) == 1, list(report.details())
    assert report.reproduced == 12


ZONES = "Node 2, zone  Movable\n  pages free     {}\n        spanned  {}\n        managed  {}\n"


@pytest.mark.parametrize(
    ("text", "own", "fits"),
    [
        (ZONES.format(6, 32768, 32768), False, True),
        (ZONES.format(5, 32769, 32768), False, False),
        (ZONES.format(5, 32768, 32000), False, False),
        (ZONES.format(5, 32768, 32000), True, True),
        (None, False, False),
    ],
)
def test_of_zoneinfo_a_read_compares_the_zones_and_not_the_counters(text: str | None, *, own: bool, fits: bool) -> None:
    """Pages that a kernel manages are compared unless the recording is of another build (its MemTotal says so)."""
    path = "/proc/zoneinfo"
    line = {"op": "read", "path": path, "off": None}
    line |= {"open_errno": "EACCES"} if text is None else {"data": text}
    zones = session([line])
    if own:
        zones.header[player.MEMTOTAL] = 4_000_000
    report = player.replay(zones, Quiet({path: ZONES.format(5, 32768, 32768)}), None)
    assert (report.count(Kind.MISMATCH) == 0) == fits


def test_an_unsupported_operation_is_a_mismatch_and_one_that_lacks_a_tool_is_not() -> None:
    unknown = {"op": "teleport"}
    tool = {"op": "sh", "cmd": "daxctl list", "tool": "daxctl-85", "rc": 0, "stdout": "", "stderr": "", **NOTHING}
    selftest = {"op": "sh", "cmd": "selftest", "rc": 0, "stdout": "", "stderr": "", **NOTHING}
    report = replayed([unknown, tool, LINES[0], selftest, LINES[0], LINES[6]])
    kinds = [(line.verdict.kind, line.verdict.reason) for line in report.lines]
    assert kinds == [
        (Kind.MISMATCH, "unknown kind of operation teleport"),
        (Kind.MISMATCH, "no tools"),
        (Kind.REPRODUCED, ""),
        (Kind.NOT_RUN, "selftest absent"),
        (Kind.NOT_RUN, "selftest absent"),
    ]
    assert report.summary() == "7.3/toy: 1 of 3 operations reproduced (2 not run)"


def of_daxctl(command: str, **recorded: object) -> dict[str, Any]:
    plain = {"op": "sh", "cmd": f"daxctl {command}", "tool": "daxctl-85", "rc": 0, "stdout": "out\n", "stderr": ""}
    return {**plain, **NOTHING, **recorded}


def test_what_another_version_of_a_tool_does_is_compared_except_for_the_stated_differences() -> None:
    target = Quiet({})
    target.stands_in = "daxctl-76.1"
    lines = [
        of_daxctl("list"),
        of_daxctl("list", rc=1),
        of_daxctl("destroy-device dax0.1", rc=250, stderr="error\n"),
        of_daxctl("destroy-device dax0.1", stdout="other\n"),
        of_daxctl("disable-device x; daxctl reconfigure-device x"),
    ]
    report = player.replay(session(lines), target, None)
    kinds = [line.verdict.kind for line in report.lines]
    assert kinds == [Kind.REPRODUCED, Kind.MISMATCH, Kind.IN_PART, Kind.MISMATCH, Kind.IN_PART]
    assert report.summary() == "7.3/toy: 1 of 3 operations reproduced (2 compared in part)"
    without = "compared in part: 2 operations without exit status"
    verbs = "enable-device, disable-device, destroy-device"
    instead = "daxctl-76.1 stands in for daxctl-85"
    assert list(not_compared([report, report])) == [
        f"{without}, messages, stderr of {verbs}, reconfigure-device: {instead}",
        f"{without}, stderr of {verbs}: {instead}",
    ]


def test_a_log_that_is_not_compared_still_tells_that_a_name_was_freed() -> None:
    target = Quiet({})
    target.stands_in = "daxctl-85"
    leak = of_daxctl("reconfigure-device x", tool="daxctl-76.1", stderr="reconfigured\n")
    leak["dmesg"] = ["<4>Hotplug memory regions stuck online until reboot"]
    header = {"profile": "hotplug-v3-as-posted", "name": "toy", "variant": "default"}
    replaying = player.Player(Session(Path("toy"), header, [leak]), target, None)
    assert replaying.replay().count(Kind.IN_PART) == 1
    assert replaying.context.names_freed


def test_a_newer_version_differs_in_nothing_that_is_known() -> None:
    target = Quiet({})
    target.stands_in = "daxctl-86"
    report = player.replay(session([of_daxctl("destroy-device x"), of_daxctl("enable-device x", rc=250)]), target, None)
    assert [line.verdict.kind for line in report.lines] == [Kind.REPRODUCED, Kind.MISMATCH]
    assert list(not_compared([report])) == []


@pytest.mark.parametrize(
    ("one", "other", "verbs"),
    [
        ("76.1", "76.1", []),
        ("76.1", "77", ["enable-device"]),
        ("76.1", "81", ["enable-device"]),
        ("76.1", "85", ["enable-device", "reconfigure-device"]),
        ("77", "80", ["enable-device"]),
        ("81", "82", ["reconfigure-device"]),
        ("81", "85", ["reconfigure-device"]),
        ("82", "83", ["reconfigure-device"]),
        ("85", "100.1", []),
        ("70", "76.1", []),
    ],
)
def test_a_difference_lies_between_an_old_and_a_new_version(one: str, other: str, verbs: list[str]) -> None:
    """A version between the two may do it either way, so it may differ from any other one."""
    for recorded, run in ((one, other), (other, one)):
        found = version_differences(
            "daxctl enable-device; daxctl reconfigure-device", f"daxctl-{recorded}", f"daxctl-{run}"
        )
        assert [difference.verbs[0] for difference in found] == verbs


@pytest.mark.parametrize(
    ("here", "fetched", "stands_in", "is_fetched"),
    [
        ("76.1", ["85"], None, True),
        ("85", [], None, False),
        ("85", ["85"], None, False),
        ("76.1", [], "76.1", False),
        ("76.1", ["86", "100"], "86", True),
        ("76.1", ["81"], "81", True),
        ("81", ["76.1"], "81", False),
        (None, ["9", "10"], "10", True),
    ],
)
def test_the_nearest_version_of_a_tool_stands_in(
    here: str | None,
    fetched: list[str],
    stands_in: str | None,
    is_fetched: bool,  # noqa: FBT001  a parameter of pytest's
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next newer one, else the newest one. Here 85 is wanted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(daxctl_versions, "installed", lambda: here and f"daxctl-{here}")
    for version in fetched:
        program = tmp_path / "fakesysfs" / f"daxctl-{version}" / "bin" / "daxctl"
        program.parent.mkdir(parents=True)
        program.write_text("")
    (tmp_path / "fakesysfs").mkdir(exist_ok=True)
    (tmp_path / "fakesysfs" / "daxctl-90-missing").write_text("")
    folder = tmp_path / "fakesysfs" / f"daxctl-{stands_in or '85'}" / "bin"
    assert daxctl_versions.find("daxctl-85") == (folder if is_fetched else None, stands_in and f"daxctl-{stands_in}")


@pytest.mark.parametrize(
    ("fetched", "installed", "found"),
    [
        ((), "76.1", None),
        (("76.1",), "76.1", None),
        (("76.1", "85"), "76.1", "85"),
        (("100", "86"), None, "86"),
        (("85",), "85", None),
    ],
)
def test_no_older_cxl_stands_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fetched: tuple[str, ...],
    installed: str | None,
    found: str | None,
) -> None:
    """The recorded one is 85. 76.1 refuses `create-region -t ram`."""
    for version in fetched:
        program = tmp_path / "fakesysfs" / f"cxl-{version}" / "bin" / "cxl"
        program.parent.mkdir(parents=True)
        program.write_text("")
    program = tmp_path / "cxl"
    program.write_text(f"#!/bin/sh\n[ $1 = version ] && echo {installed}\n")
    program.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(daxctl_versions, "which", lambda _name: installed and str(program))
    daxctl_versions.cxl_folder.cache_clear()
    try:
        assert daxctl_versions.cxl_folder() == (found and tmp_path / "fakesysfs" / f"cxl-{found}" / "bin")
    finally:
        daxctl_versions.cxl_folder.cache_clear()


def test_without_any_version_of_a_tool_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(daxctl_versions, "installed", lambda: None)
    with pytest.raises(ToolAbsentError):
        daxctl_versions.find("daxctl-85")


def test_known_differences_count_as_reproduced_through_a_mount_only() -> None:
    line = {"op": "write", "path": FILE, "data": "", "len": 0, "flags": 1, "off": None, "errno": "EINVAL", **NOTHING}
    line["dmesg"] = ["<6>kmem wrote "]
    other = {**line, "dmesg": []}
    on_model, on_mount = Quiet({FILE: ""}), Quiet({FILE: ""})
    on_mount.through_mount = True
    assert player.replay(session([line]), on_model, None).count(Kind.MISMATCH) == 1
    report = player.replay(session([line, other]), on_mount, None)
    assert [entry.verdict.kind for entry in report.lines] == [Kind.KNOWN, Kind.MISMATCH]
    assert (report.reproduced, report.counted) == (1, 2)


def test_the_open_before_an_unbind_is_done_before_it() -> None:
    lines: list[dict[str, Any]] = [
        {"op": "write", "path": "/sys/bus/dax/drivers/kmem/unbind"},
        {
            "op": "raw",
            "calls": [
                {"fn": "open", "args": [FILE, 2], "ret": "fd1"},
                {"fn": "read", "args": ["fd1", 9], "errno": "ENODEV"},
            ],
        },
    ]
    assert [call["ret"] for call in raw.early_opens(lines)[0]] == ["fd1"]


STATE = "/sys/devices/system/memory/memory50/state"


@pytest.mark.parametrize(
    "call",
    [
        {"fn": "access", "args": [STATE, 4], "ret": True},
        {"fn": "access", "args": [STATE], "kw": {"mode": 1}, "ret": False},
        {"fn": "access", "args": [STATE + "x", 0], "ret": False},
        {"fn": "chmod", "args": [STATE], "kw": {"mode": 0o600, "follow_symlinks": False}, "ret": None},
        {"fn": "utime", "args": [STATE], "kw": {"times": [1, 1]}, "ret": None},
        {"fn": "listdir", "args": ["/sys/bus/dax"], "ret": RECORDED_BUS},
        {"fn": "lstat", "args": [STATE], "ret": [0o100644, 7, 19, 1, 0, 0, 4096, 0, 0, 0]},
        {"fn": "stat", "args": ["/sys/bus/dax/devices/dax0.0"], "ret": [0o40755, 7, 19, 3, 0, 0, 0, 0, 0, 0]},
        {"fn": "mkdir", "args": [STATE + "x", 0o777], "errno": "EPERM"},
        {"fn": "open", "args": ["/sys/bus/dax/devices/dax0.0", os.O_NOFOLLOW], "errno": "ELOOP"},
        {"fn": "symlink", "args": ["target", STATE], "errno": "EEXIST"},
        {"fn": "rename", "args": [STATE, STATE], "ret": None},
        {"fn": "remove", "args": [STATE], "errno": "EPERM"},
        {"fn": "getxattr", "args": [STATE, "user.x"], "errno": "ENODATA"},
        {"fn": "removexattr", "args": [STATE, "user.x"], "errno": "ENOTSUP"},
        {"fn": "removexattr", "args": [STATE, "security.x"], "errno": "ENODATA"},
    ],
)
def test_single_calls_by_path(loaded_guest: ModelTarget, call: dict[str, Any]) -> None:
    assert raw.Descriptors(loaded_guest).perform(call) == []


def test_modules_are_loaded_and_unloaded_without_a_shell(loaded_guest: ModelTarget) -> None:
    modules = loaded_guest.sysroot.kernel.modules
    for command, status, there in (
        ("rmmod kmem; rmmod dax-hmem", 0, []),
        ("rmmod kmem", 1, []),
        ("modprobe absent", 1, []),
        ("modprobe dax_hmem region_idle=maybe", 1, []),
        ("modprobe dax_hmem region_idle", 0, ["dax_hmem"]),
    ):
        assert loaded_guest.sh(command, None).rc == status
        assert list(modules.loaded) == there
    assert modules.loaded["dax_hmem"].is_set("region_idle")


@pytest.mark.parametrize(
    "command", ["modprobe -r kmem", "modprobe kmem && ls", "rmmod kmem; echo $?", "modprobe $x", "cat /proc/iomem", ""]
)
def test_every_other_command_needs_a_shell(loaded_guest: ModelTarget, command: str) -> None:
    with pytest.raises(NotRunError, match="needs a shell: ") as caught:
        loaded_guest.sh(command, None)
    assert caught.value.rest


def test_single_calls_by_descriptor(loaded_guest: ModelTarget) -> None:
    descriptors = raw.Descriptors(loaded_guest)
    status = [0o100640, 7, 19, 1, 1, 1, 4096, 0, 0, 0]
    for call in (
        {"fn": "open", "args": [STATE, 2], "ret": "fd1"},
        {"fn": "fchmod", "args": ["fd1", 0o640], "ret": None},
        {"fn": "fchown", "args": ["fd1", 1, 1], "ret": None},
        {"fn": "fdatasync", "args": ["fd1"], "ret": None},
        {"fn": "fstat", "args": ["fd1"], "ret": status},
        {"fn": "pread", "args": ["fd1", 5, -1], "errno": "EINVAL"},
        {"fn": "pwrite", "args": ["fd1", "x", -1], "errno": "EINVAL"},
        {"fn": "read", "args": ["fd1", 0], "ret": ""},
        {"fn": "lseek", "args": ["fd1", 5, 0], "kw": {}, "ret": 5},
        {"fn": "lseek", "args": ["fd1", 7, os.SEEK_DATA], "ret": 7},
        {"fn": "lseek", "args": ["fd1", 7, os.SEEK_HOLE], "ret": 4096},
        {"fn": "lseek", "args": ["fd1", 4096, os.SEEK_DATA], "errno": "ENXIO"},
        {"fn": "lseek", "args": ["fd1", 0x7FFFFFFF, 0], "ret": 0x7FFFFFFF},
        {"fn": "lseek", "args": ["fd1", 1, 1], "errno": "EINVAL"},
        {"fn": "lseek", "args": ["fd1", -5000, 2], "errno": "EINVAL"},
        {"fn": "lseek", "args": ["fd1", 0, 9], "errno": "EINVAL"},
    ):
        assert descriptors.perform(call) == []
    assert descriptors.perform({"fn": "access", "args": [STATE, 4], "ret": False}) != []


def test_a_race_of_a_block_may_read_what_a_block_reads() -> None:
    writers = [["A", STATE, ["offline", "online_movable"]]]
    operation = {"writers": writers, "stats": [], "reads": {}}
    target = Quiet({STATE: ""})
    assert concurrent.race_differences(target, operation) == []
    writers[0][1] = FILE
    assert concurrent.race_differences(target, operation) != []


class Stuck(Quiet):
    """No write comes back."""

    def wait(self, process: Process) -> bool:
        del process
        return False


def test_a_write_that_never_came_back_need_not_come_back() -> None:
    start = {"op": "async_start", "id": 1, "path": FILE, "data": "'x'", "alarm_s": 0}
    target = Stuck({FILE: ""})
    for end, kind in (({"timeout": True}, Kind.REPRODUCED), ({}, Kind.MISMATCH)):
        lines = [start, {"op": "async_end", "id": 1, "dmesg": ["<6>kmem wrote x"], "uevents": [], **end}]
        report = player.replay(session(lines), target, None)
        assert [line.verdict.kind for line in report.lines] == [Kind.REPRODUCED, kind]


def test_paths_recorded_and_specified_operations_are_counted_apart() -> None:
    good, bad = Verdict(Kind.REPRODUCED), Verdict(Kind.MISMATCH, "differs")
    reports = [
        Report("snapshot 7.2/a", "paths", [Line("/p", "file", good), Line("/q", "file", bad)]),
        Report("7.2/a", lines=[Line("i=1", "read", good)]),
        Report("hotplug-v3/a", lines=[Line("i=1", "read", good)]),
    ]
    assert reports[0].summary() == "snapshot 7.2/a: 1 of 2 paths reproduced"
    assert list(totals(reports)) == [
        "snapshots: 1 of 2 paths reproduced",
        "recorded: 1 of 1 operations reproduced",
        "specified: 1 of 1 operations reproduced",
        "total: 2 of 2 operations reproduced",
    ]
    assert list(totals(reports[:1])) == ["total: 1 of 2 paths reproduced"]
    assert list(by_kernel(reports)) == [
        "  7.2: 1 of 2 paths reproduced",
        "  7.2: 1 of 1 operations reproduced",
        "  hotplug-v3: 1 of 1 operations reproduced",
    ]


def test_a_report_names_what_differs() -> None:
    report = Report("x")
    report.add("i=1", "read /a", Verdict(Kind.MISMATCH, "", ("expected 1, got 2",)))
    assert list(report.details()) == ["  mismatch i=1: read /a", "      expected 1, got 2"]


# The command ------------------------------------------------------------------------------------------------------


def recorded(folder: Path, *names: str) -> list[Session]:
    """Sessions of one line each, which boot reproduces."""
    line = {"op": "stat", "path": "/sys/bus/dax/devices/dax9.9", "errno": "ENOENT"}
    for name in names:
        header = {"op": "header", "profile": "7.3", "name": name, "variant": "default"}
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(line)}\n")
    return [recording for path in find([folder]) if isinstance(recording := load(path), Session)]


def test_a_process_that_is_killed_is_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path, "a", "b", "c")
    replay = cli.replay

    def killed_in_b(recording: Session | Snapshot, place: cli.Place) -> Report:
        if recording.name == "7.3/b":
            os.kill(os.getpid(), signal.SIGKILL)
        return replay(recording, place)

    monkeypatch.setattr(cli, "replay", killed_in_b)
    assert cli.main(["-v", "--jobs", "2", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "7.3/a: 1 of 1 operations reproduced",
        "7.3/b: 0 of 1 operations reproduced",
        "  mismatch i=1 [its process died (exit code -9)]: stat /sys/bus/dax/devices/dax9.9",
        "7.3/c: 1 of 1 operations reproduced",
    ]


@pytest.mark.parametrize(
    ("on_terminal", "term", "shown"),
    [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)],
)
def test_progress_is_on_a_terminal_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    on_terminal: bool,  # noqa: FBT001
    term: str,
    shown: bool,  # noqa: FBT001
) -> None:
    recorded(tmp_path, "a", "b")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    monkeypatch.setenv("TERM", term)
    assert cli.main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[:2] == [f"7.3/{name}: 1 of 1 operations reproduced" for name in "ab"]
    lines = said.err.replace("\x1b[K", "").split("\r")
    counts = [f"{done} of 2 recordings replayed" for done in (0, 1, 2)]
    assert [line for line in lines if line] == (counts if shown else [])
    if shown:
        assert said.err.endswith("\r\x1b[K"), "the line is still there at the end"


@pytest.mark.parametrize("jobs", [2, 3])
def test_children_run_at_the_same_time_and_are_given_in_order(jobs: int) -> None:
    """The first cannot end before the second has begun."""
    reader, writer = os.pipe()
    actions = [lambda: os.read(reader, 1), lambda: os.write(writer, b"x"), lambda: 3]
    assert [child.result() for child in isolated.in_order(actions, jobs)] == [b"x", 1, 3]
    os.close(reader)
    os.close(writer)


def test_children_that_are_no_longer_wanted_are_killed() -> None:
    reader, writer = os.pipe()
    children = isolated.in_order([lambda: 1, lambda: os.read(reader, 1)], 2)
    assert next(children).result() == 1
    children.close()
    assert not multiprocessing.active_children()
    os.close(reader)
    os.close(writer)


def test_a_large_result_arrives_while_an_earlier_child_runs() -> None:
    """It does not fit into a pipe."""
    reader, writer = os.pipe()
    actions = [lambda: os.read(reader, 1), lambda: b"x" * (1 << 20), lambda: os.write(writer, b"x")]
    assert [child.result() for child in isolated.in_order(actions, 2)] == [b"x", b"x" * (1 << 20), 1]
    os.close(reader)
    os.close(writer)


def test_without_fuse_a_session_ends_where_it_needs_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "why_not", lambda: "no FUSE")
    (plain,) = recorded(tmp_path, "a")
    rmmod = {"op": "sh", "cmd": "rmmod kmem", "rc": 1, "stdout": "", "stderr": "", **NOTHING}
    cat = {"op": "sh", "cmd": "cat /sys/gone", "rc": 1, "stdout": "", "stderr": "", **NOTHING}
    lines = [rmmod, *plain.operations, cat, *plain.operations, {"op": "note", "text": ""}]
    report = cli.replay(Session(plain.path, plain.header, lines))
    assert [line.verdict.kind for line in report.lines] == [Kind.REPRODUCED] * 2 + [Kind.NOT_RUN] * 2
    assert report.summary() == "7.3/a: 2 of 2 operations reproduced (2 not run)"
    assert list(not_compared([report])) == ["not run: 2 operations (needs a shell: no FUSE)"]


def test_without_fuse_a_snapshot_whose_recipe_needs_a_shell_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "why_not", lambda: "no FUSE")
    entries = {"/sys/bus/dax": {"path": "/sys/bus/dax", "type": "dir"}}
    header = {"profile": "7.3", "name": "x", "variant": "default", "operations": [{"op": "sh", "cmd": "cat /sys/gone"}]}
    report = cli.replay(Snapshot(Path("x"), header, entries))
    assert [line.verdict for line in report.lines] == [Verdict(Kind.NOT_RUN, "needs a shell: no FUSE")]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--note", "x.json"], "--note is for --on kernel: it names the build of a real kernel"),
        (["--kernel-image", "7.3"], "--kernel-image needs --on kernel"),
        (["--kernel", "7.9"], "no recording of kernel '7.9' (choose from 7.3)"),
        (["--on", "mount"], "--on mount needs a mount: no FUSE"),
    ],
)
def test_wrong_use_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.setattr(isolated, "why_not", lambda: "no FUSE")
    recorded(tmp_path, "a")
    assert cli.main([*arguments, str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"fakesysfs replay: {why}\n")


def test_another_machine_replays_a_recording_of_a_plain_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No machine.json, no `sessions/`, and a variant that no built-in machine has."""
    nodes = "/sys/devices/system/node/online"
    header = {"op": "header", "profile": "7.3", "name": "a", "variant": "mine"}
    read = {"op": "read", "path": nodes, "off": None, "data": "0-1\n"}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(read)}\n")
    machine = tmp_path / "mine.toml"
    machine.write_text(
        'block_size = "128M"\n[[node]]\nid = 0\ncpus = "0"\nmemory = [{ start = "0", size = "1G" }]\n'
        '[[node]]\nid = 1\nmemory = [{ start = "4G", size = "1G" }]\n'
    )
    assert cli.main(["-v", str(tmp_path)]) == 1
    assert "--machine FILE replays on another machine" in capsys.readouterr().out
    assert cli.main(["--machine", str(machine), str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("total: 1 of 1 operations reproduced\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--machine", "moon"], "unknown machine 'moon' (choose from "),
        (["--machine", "tiny", "--on", "kernel"], "--machine describes a fake: it cannot be used with --on kernel"),
    ],
)
def test_a_machine_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    recorded(tmp_path, "a")
    assert cli.main([*arguments, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"fakesysfs replay: {why}")


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_the_number_of_jobs_is_checked(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([f"--jobs={jobs}"])
    assert f"{jobs!r} is not a positive number" in capsys.readouterr().err


# On the model -----------------------------------------------------------------------------------------------------


def first_session(profile: str, pattern: str) -> Session:
    for recording in recordings():
        if (
            isinstance(recording, Session)
            and recording.header["profile"] == profile
            and re.match(pattern, recording.header["name"])
        ):
            return recording
    pytest.skip("that session is not here")


@needs_recordings
def test_on_the_model_a_changed_line_is_found(tmp_path: Path) -> None:
    pytest.importorskip("fakesysfs.sysroot")
    original = first_session("7.2", "12-")
    before = cli.replay(original)
    changed = copy.deepcopy(original.operations)
    line = next(line for line in changed if line["op"] == "blocks")
    line["blocks"]["1"][0] = "offline"
    path = tmp_path / "changed.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in [original.header, *changed]))
    after = load(path)
    assert isinstance(after, Session)
    assert cli.replay(after).reproduced < before.reproduced


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("for m in cxl_acpi cxl_pci; do modprobe $m; done", ["cxl_acpi", "cxl_pci"]),
        ('modprobe kmem; for m in a b-c ; do rmmod "${m}" ; done', ["kmem", "a", "b-c"]),
        ("for m in a; do modprobe $n; done", None),
        ("for m in a; do modprobe $m || exit; done", None),
    ],
)
def test_loops_over_modules_need_no_shell(command: str, names: list[str] | None) -> None:
    found = bash.module_commands(command)
    assert (None if found is None else [words[1] for words in found]) == names


@pytest.mark.parametrize(
    "command",
    [
        "cxl list", "timeout 20 cxl list", "timeout -s KILL 5s cxl list -v", "if cxl list; then echo x; fi",
        "for m in mem0 mem1; do cxl disable-memdev $m; done", "time cxl list", "! cxl list", "A=1 env B=2 cxl list",
        "echo x; cxl list", "true && cxl list | cat",
    ],
)  # fmt: skip
def test_a_tool_is_found_in_a_command_line(command: str) -> None:
    assert "cxl" in bash.command_names(command)
    assert "cxl" not in bash.command_names(command.replace("cxl list", "ls /sys/bus/cxl").replace("cxl d", "ls d"))


@pytest.mark.parametrize("split", range(4))
@pytest.mark.parametrize("swapped", [False, True])
def test_messages_of_a_write_may_come_with_the_next_collect(split: int, *, swapped: bool) -> None:
    """Looks at files may stand in between. The order counts."""
    module = {"op": "sh", "cmd": "modprobe kmem", "rc": 0, "stdout": "", "stderr": ""}
    target = loaded_model()
    target.sh("rmmod kmem", None)
    target.drain()
    target.sh("modprobe kmem", None)
    events = [event for event in target.drain().uevents if "@/module/" not in event[0]]
    assert len(events) > 3
    if swapped:
        events[1:3] = reversed(events[1:3])
    target.sh("rmmod kmem", None)
    target.drain()
    lines: list[dict[str, Any]] = [
        {**module, "uevents": events[:split]},
        {"op": "stat", "path": "/sys/absent", "errno": "ENOENT"},
        {"op": "collect", "text": "", "uevents": events[split:]},
    ]
    report = player.replay(
        Session(Path("x"), {"profile": "7.3", "name": "x", "variant": "default"}, lines), target, None
    )
    found = [line.verdict for line in report.lines if any("uevents" in text for text in line.verdict.differences)]
    assert bool(found) == swapped


def loaded_model() -> ModelTarget:
    target = ModelTarget(boot(machine_and_kernel("7.3", "default")))
    target.sh("modprobe device_dax; modprobe dax_hmem; modprobe kmem", None)
    return target


ROOT0 = "/sys/devices/platform/ACPI0017:00/root0"


@pytest.mark.parametrize("on_model_only", [False, True])
def test_a_note_of_what_changed_is_checked(*, on_model_only: bool) -> None:
    """The session says that the mode of one decoder has changed. On the model that of another one may have, too."""
    modes = [f"{ROOT0}/port1/endpoint2/decoder2.{number}/mode" for number in range(2)]
    write = {"op": "write", "data": "ram\n", "len": 4, "flags": 1, "off": None, "ret": 4}
    note = {"op": "note", "text": "cxl state: 1 of 9 paths changed"}
    lines: list[dict[str, Any]] = [
        {"op": "sh", "cmd": "for m in cxl_acpi cxl_pci; do modprobe $m; done", "rc": 0, "stdout": "", "stderr": ""},
        {"op": "collect", "text": ""},
        note,
        {**write, "path": modes[0]},
        *([{**write, "path": modes[1]}] if on_model_only else []),
        {"op": "read", "path": "/sys/bus/cxl/devices/decoder2.0/mode", "off": None, "data": "ram\n"},
        note,
        {"op": "write", "path": "/sys/bus/cxl/flush", "data": "1\n", "len": 2, "flags": 1, "off": None, "ret": 2},
        note,
    ]
    header = {"op": "header", "profile": "7.3-cxl", "name": "x", "variant": "t1"}
    target = ModelTarget(boot(machine_and_kernel("7.3-cxl", "t1")))
    report = player.replay(Session(Path("x"), header, lines), target, None)
    found = [line.verdict for line in report.lines if line.what == "note"]
    assert found == ([Verdict(Kind.MISMATCH, "more has changed", (modes[1],))] if on_model_only else [])


@pytest.mark.parametrize(
    ("written", "recorded", "fits"), [(1, 1, True), (2, 1, True), (2, 2, True), (1, 2, False), (1, 0, False)]
)
def test_a_uuid_that_no_operation_gives_is_drawn_at_random(written: int, recorded: int, *, fits: bool) -> None:
    """`cxl create-region -t pmem` draws one. Of the session's own (2) each digit is compared."""
    uuids = [f"{number}".rjust(8, "1" if number else "0") + "-1111-2222-3333-444444444444" for number in range(3)]
    path = "/sys/bus/cxl/devices/region0/uuid"
    names = ("cxl_pmem", "cxl_acpi", "cxl_mem", "cxl_pci")
    lines: list[dict[str, Any]] = [
        {"op": "read", "path": path, "off": None, "data": f"{uuids[recorded]}\n"},
        {"op": "sh", "cmd": f"true {uuids[2]}", "rc": 0, "stdout": "", "stderr": ""},
    ]
    target = ModelTarget(boot(machine_and_kernel("7.3-cxl", "t5")))
    target.sh("; ".join(f"modprobe {name}" for name in names), None)
    target.await_quiet()
    for file, data in (("decoder0.0/create_pmem_region", "region0"), ("region0/uuid", uuids[written])):
        target.write_file(f"/sys/bus/cxl/devices/{file}", f"{data}\n".encode(), os.O_WRONLY)
    report = player.replay(
        Session(Path("x"), {"profile": "7.3-cxl", "name": "x", "variant": "t5"}, lines), target, None
    )
    assert (report.lines[0].verdict.kind is Kind.REPRODUCED) == fits


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ({"op": "stat", "path": "/sys/bus/cxl/devices/endpoint3/uport", "target": "../../mem0"}, "mem1"),
        ({"op": "sh", "cmd": "cxl list -E", "stdout": '"endpoint":"endpoint2",\n "host":"mem1",'}, "mem1"),
        ({"op": "sh", "cmd": "cxl list -R", "stdout": '"memdev":"mem0",\n "decoder":"decoder2.3"'}, "mem0"),
        (
            {"op": "collect", "uevents": [["bind@/devices/pci0000:0c/x/mem1"], ["bind@/devices/pci0000:0c/y/mem0"]]},
            "mem1",
        ),
        ({"op": "collect"}, "mem0"),
    ],
)
def test_the_order_of_endpoints_is_that_of_the_session(line: dict[str, Any], first: str, tmp_path: Path) -> None:
    addresses = {"mem0": "0000:0c:01.0/0000:0e:00.0", "mem1": "0000:0c:00.0/0000:0d:00.0"}
    memdevs = {name: f"/sys/devices/pci0000:0c/{address}/{name}" for name, address in addresses.items()}
    fake = machine_and_kernel("7.3-cxl", "t2")
    target = ModelTarget(boot(fake._replace(machine=with_memdevs(fake.machine, memdevs, [line], tmp_path))))
    target.sh("modprobe cxl_acpi; modprobe cxl_pci", None)
    target.await_quiet()
    assert target.readlink("/sys/bus/cxl/devices/endpoint2/uport").rpartition("/")[2] == first


def test_a_snapshot_belongs_to_the_session_that_names_it(tmp_path: Path) -> None:
    """Its machine has the numbers of that session, and has done what stands before the note."""
    devices = "/sys/bus/cxl/devices"
    path = f"{devices}/decoder2.0/mode"
    memdevs = {
        "mem0": "/sys/devices/pci0000:0c/0000:0c:01.0/0000:0e:00.0/mem0",
        "mem1": "/sys/devices/pci0000:0c/0000:0c:00.0/0000:0d:00.0/mem1",
    }
    session = [
        {"op": "header", "profile": "7.3-cxl", "name": "x", "variant": "t2", "memdevs": memdevs},
        {"op": "sh", "i": 1, "cmd": "modprobe cxl_acpi", "rc": 0, "stdout": "", "stderr": ""},
        {"op": "sh", "i": 2, "cmd": "modprobe cxl_pci", "rc": 0, "stdout": "", "stderr": ""},
        {"op": "collect", "i": 3, "text": "", "uevents": [], "dmesg": []},
        {"op": "write", "i": 4, "path": path, "data": "ram\n", "len": 4, "flags": 1, "off": None, "ret": 4},
        {"op": "note", "i": 5, "text": "snapshot 01-ram.jsonl"},
        {"op": "sh", "i": 6, "cmd": "rmmod cxl_pci", "rc": 0, "stdout": "", "stderr": ""},
    ]
    link = {"mode": "0777", "size": 0, "uid": 0, "gid": 0, "nlink": 1, "type": "symlink"}
    snapshot = [
        {"header": 1, "profile": "7.3-cxl", "name": "01-ram"},
        {"path": path, **link, "mode": "0644", "size": 4096, "type": "file", "content": "ram\n"},
        {"path": f"{devices}/mem0", "target": f"../../..{memdevs['mem0'].removeprefix('/sys')}", **link},
    ]
    for name, lines in (("sessions/x.jsonl", session), ("snapshots/01-ram.jsonl", snapshot)):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report = cli.replay(load(tmp_path / "snapshots/01-ram.jsonl"))
    assert list(report.details()) == []
    assert report.count(Kind.REPRODUCED) == len(snapshot) - 1
