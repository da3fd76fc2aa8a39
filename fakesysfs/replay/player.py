"""Replaying one session: act on each line, and compare the answers.

Nothing here depends on a session's name. An operation's position matters only where FORMAT.md says
so: consecutive async_end lines, an open before an unbind, the lines after a race.
"""

from __future__ import annotations

import ast
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any

from fakesysfs.kernel.profile import PROFILES
from fakesysfs.replay import bash, concurrent, probes, raw
from fakesysfs.replay.bash import command_names, unquoted
from fakesysfs.replay.changed_files import NOTE, ChangedFiles
from fakesysfs.replay.messages import ENDS_TOGETHER, Comparison
from fakesysfs.replay.normalise import (
    CUT_LISTING,
    OUTPUT_NOT_COMPARED,
    OUTPUT_OF_NEWER_TOOLS,
    PATHS_NOT_COMPARED,
    STATUS_NOT_COMPARED,
    Context,
    depends_on_an_option,
    for_command,
    from_other_boot,
    normalise,
    version_differences,
    with_wakeup_number,
    without_mailbox,
)
from fakesysfs.replay.recording import INFORMATIVE, MEMDEVS, Operation, Session
from fakesysfs.replay.report import (
    NOTHING_TO_COMPARE,
    REPRODUCED,
    Kind,
    Report,
    Verdict,
    brief,
    compared,
    difference,
)
from fakesysfs.replay.target import (
    BlockedError,
    NotRunError,
    NotSupportedError,
    Outcome,
    Process,
    ShellResult,
    Target,
    ToolAbsentError,
    errno_name,
    errno_number,
)
from fakesysfs.testing.tasks import Signal

_LOAD_ALL = ("modprobe device_dax", "modprobe dax_hmem", "modprobe kmem")
_BACKGROUND_FIXTURES = (
    (re.compile(r"--membind=(\d+) .*fixture:vmsplice_pin\b"), "pin", "unpin"),
    (re.compile(r"--membind=(\d+) .*fixture:kalloc\b"), "kernel-allocations", "kernel-allocations-released"),
)
_UUID = re.compile(r"(?!0{8}-)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOOKS = INFORMATIVE | {"blocks", "iomem", "ls", "memtotal", "read", "readdir-raw-order", "stat", "tainted", "tiers"}
"""Kinds of operations after which the recorder does not look for messages."""
_PROBES_MEMDEVS = re.compile(r"\bcxl_(?:pci|acpi)\b")
MEMTOTAL = "MemTotal_kB_at_boot"
"""A key of machine.json and of its variants. The header of a session of the lab has its own."""


def replay(session: Session, target: Target, facts: dict[str, Any] | None) -> Report:
    """Replay a session on a freshly booted machine.

    `facts` is the recorded machine.json, or None.
    """
    return Player(session, target, facts).replay()


class Player:
    """The replay of one session."""

    def __init__(self, session: Session, target: Target, facts: dict[str, Any] | None) -> None:
        self.session = session
        self.target = target
        self.operations = session.operations
        if MEMDEVS in session.header:
            self.operations = [with_wakeup_number(operation) for operation in self.operations]
        self.index = 0
        self.descriptors = raw.Descriptors(target)
        self.early = raw.early_opens(self.operations)
        self.last_uses = raw.last_uses(self.operations)
        profile = PROFILES.get(session.header["profile"].removesuffix("-cxl"))
        distribution = session.header["profile"].endswith("-distribution")
        self.context = Context(
            other_configuration=target.real_kernel and not distribution, other_build=MEMTOTAL in session.header
        )
        self.messages = Comparison(
            self.context,
            profile is not None and profile.leak_frees_name,
            bursts_compared=not target.real_kernel,
        )
        self.changed_files: ChangedFiles | None = None
        """Set where the notes of what changed are checked: a mount shows what the model shows, and takes longer."""
        if not (target.through_mount or target.real_kernel):
            self.changed_files = ChangedFiles(target, checks=True)
        self.blocks: probes.BlockTable | None = None
        self.processes: dict[int, Process] = {}
        self.stuck_offlines: dict[int, concurrent.StuckOffline] = {}
        self.background: list[tuple[str, int]] = []
        self.pinned_node: int | None = None
        self.fixture_nodes: dict[str, int | None] = {}
        self.after_race = False
        self.memtotal_expected = _recorded_memtotal(facts, session.header)
        self.memtotal_got: int | None = None
        self.handlers: dict[str, Callable[[Operation], Verdict]] = {
            "write": self._write, "read": self._read, "stat": self._stat, "ls": self._ls,
            "readdir-raw-order": self._order, "sh": self._sh, "blocks": self._blocks, "iomem": self._iomem,
            "memtotal": self._memtotal, "tiers": self._tiers, "tainted": self._tainted, "raw": self._raw,
            "timed": self._timed,
            "collect": self._collect, "fixture": self._fixture, "bg": self._bg, "bg_kill": self._bg_kill,
            "async_start": self._async_start, "async_poll": self._async_poll, "async_signal": self._async_signal,
            "async_end": self._async_end, "race": self._race, "pinned": self._pinned,
        }  # fmt: skip

    def replay(self) -> Report:
        """Replay all lines.

        A line that cannot be replayed is a mismatch, and the next line follows.
        """
        report = Report(self.session.name)
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001  a bug of the model is a finding, not the end of the report
            report.add("start", "the machine", Verdict(Kind.MISMATCH, _bug(error)))
        rest: str | None = None
        for index, operation in enumerate(self.operations):
            self.index = index
            if rest is not None:
                verdict = NOTHING_TO_COMPARE if operation["op"] in INFORMATIVE else Verdict(Kind.NOT_RUN, rest)
            else:
                verdict, rest = self._replay(operation)
            report.add(f"i={operation.get('i', self.index + 1)}", describe(operation), verdict)
        return report

    def _begin(self) -> None:
        """Bring the machine to where the session starts, and drop the messages of that.

        A session whose first line is `blocks`, with blocks that boot lacks, was recorded with the
        three modules loaded (FORMAT.md, 7.2/02).
        """
        self.memtotal_got = probes.memtotal(self.target)
        first = next((operation for operation in self.operations if operation["op"] not in INFORMATIVE), None)
        if first is not None and first["op"] == "blocks" and set(first["blocks"]) - set(probes.blocks(self.target)):
            for command in _LOAD_ALL:
                self.target.sh(command, None)
        self.target.drain()

    def _replay(self, operation: Operation) -> tuple[Verdict, str | None]:
        """The verdict, and why the rest of the session cannot be replayed, or None."""
        kind = operation["op"]
        if kind in INFORMATIVE:
            return self._note(operation) if kind == "note" else NOTHING_TO_COMPARE, None
        handler = self.handlers.get(kind)
        if handler is None:
            return Verdict(Kind.MISMATCH, f"unknown kind of operation {kind}"), None
        for call in self.early.get(self.index, ()):
            self.descriptors.perform(call)
        verdict, rest = self._handle(handler, operation)
        if self.target.real_kernel:
            self.descriptors.close_unused(self.index, self.last_uses)
        if kind == "write":
            self.after_race = False
        if verdict.kind is Kind.MISMATCH and self.target.through_mount:
            reason = known(operation, verdict.differences)
            if reason is not None:
                verdict = Verdict(Kind.KNOWN, reason, verdict.differences)
        return verdict, rest

    def _handle(self, handler: Callable[[Operation], Verdict], operation: Operation) -> tuple[Verdict, str | None]:
        """The handler's verdict. An exception becomes a verdict too."""
        rest = None
        try:
            return handler(operation), None
        except NotSupportedError as error:
            verdict = Verdict(Kind.MISMATCH, error.reason)
        except NotRunError as error:
            kind = Kind.TOOL_ABSENT if isinstance(error, ToolAbsentError) else Kind.NOT_RUN
            verdict = Verdict(kind, error.reason)
            rest = error.reason if error.rest else None
        except BlockedError as error:
            verdict = Verdict(Kind.MISMATCH, "blocks", (str(error),))
        except Exception as error:  # noqa: BLE001  see replay
            verdict = Verdict(Kind.MISMATCH, _bug(error))
        self._discard(operation)
        return verdict, rest

    def _discard(self, operation: Operation) -> None:
        """Drop the messages of this operation, so that the next one does not get them."""
        if "uevents" in operation:
            self.target.drain()

    def _note(self, operation: Operation) -> Verdict:
        """Check a note that says that only the paths of the lines before it have changed.

        What the kernel did in the background may have shown at the next note only.
        """
        if self.changed_files is None or not _is_change_note(operation):
            return NOTHING_TO_COMPARE
        notes = [index for index, other in enumerate(self.operations) if _is_change_note(other)]
        position = notes.index(self.index)
        begin = notes[position - 1] if position else 0
        end = notes[position + 1] if position + 1 < len(notes) else len(self.operations)
        found = self.changed_files.unmentioned(self.operations[begin:end])
        return Verdict(Kind.MISMATCH, "more has changed", tuple(found)) if found else NOTHING_TO_COMPARE

    # Files ---------------------------------------------------------------------------------------------------------

    def _write(self, operation: Operation) -> Verdict:
        data = operation["data"].encode("latin-1")
        outcome = self.target.write_file(operation["path"], data, operation["flags"], operation["off"])
        return compared(outcome_differences(operation, outcome) + self._drained(operation))

    def _read(self, operation: Operation) -> Verdict:
        kind, got = self.target.read_result(operation["path"], operation.get("n", 65536), operation["off"])
        got = got.decode("latin-1") if isinstance(got, bytes) else got
        recorded, expected = _recorded_outcome(operation, "data")
        for_command(self.context, operation["path"], set())
        if operation["path"].endswith("/uuid") and not self._is_given(str(expected).strip()):
            expected, got = (_UUID.sub("<uuid>", str(value)) for value in (expected, got))
        stream = "text" if self.context.counters else "data"
        expected, got = (normalise(stream, value, self.context) for value in (expected, got))
        if stream == "text" and recorded == kind:  # a difference names its line
            return self._unless_after_race(compared(difference("read", expected.split("\n"), got.split("\n"))))
        return self._unless_after_race(compared(difference("read", (recorded, expected), (kind, got))))

    def _is_given(self, uuid: str) -> bool:
        """Whether a uuid is the session's own. cxl draws one at random for a region of persistent memory."""
        acts = (operation for operation in self.operations if operation["op"] in {"sh", "write"})
        return any(uuid in str(operation.get("cmd") or operation.get("data")) for operation in acts)

    def _stat(self, operation: Operation) -> Verdict:
        path = operation["path"]
        if self.context.other_configuration and depends_on_an_option(path):
            return NOTHING_TO_COMPARE
        try:
            status = self.target.stat(path)
        except OSError as error:
            return compared(difference("stat", _recorded_errno(operation) or "success", errno_name(error.errno)))
        if "errno" in operation:
            return compared(difference("stat", _recorded_errno(operation), "success"))
        got: dict[str, Any] = {"mode": oct(status.mode), "size": status.size}
        if not (self.context.other_configuration and stat.S_ISDIR(status.mode)):  # it has `power`, too
            got["nlink"] = status.nlink
        if self.target.owner_is_root:
            got |= {"uid": status.uid, "gid": status.gid}
        if "target" in operation:
            try:
                got["target"] = self.target.readlink(path)
            except OSError as error:
                got["target"] = errno_name(error.errno)
        differences = [line for key, value in got.items() for line in difference(key, operation[key], value)]
        return compared(differences)

    def _ls(self, operation: Operation) -> Verdict:
        got = self.target.listed(operation["path"])
        got = got and sorted(got)
        expected, found = (names and normalise("names", names, self.context) for names in (operation["names"], got))
        return compared(_names(expected, found))

    def _order(self, operation: Operation) -> Verdict:
        expected, got = (
            names and normalise("names", names, self.context)
            for names in (operation["names"], self.target.listed(operation["path"]))
        )
        return compared(difference("order of readdir", expected, got))

    # Probes --------------------------------------------------------------------------------------------------------

    def _blocks(self, operation: Operation) -> Verdict:
        table = {} if operation["full"] or self.blocks is None else dict(self.blocks)
        for number, values in operation["blocks"].items():
            if values is None:
                table.pop(number, None)
            else:
                table[number] = values
        self.blocks = table
        return self._unless_after_race(compared(probes.block_differences(table, probes.blocks(self.target))))

    def _iomem(self, operation: Operation) -> Verdict:
        expected = normalise("iomem", operation["lines"], self.context)
        got = normalise("iomem", probes.iomem(self.target), self.context)
        return self._unless_after_race(compared(difference("iomem", expected, got)))

    def _memtotal(self, operation: Operation) -> Verdict:
        got = probes.memtotal(self.target)
        if self.memtotal_expected is None or self.memtotal_got is None:
            # no machine.json: both begin at their first figure
            self.memtotal_expected, self.memtotal_got = operation["kB"], got
        expected_change = operation["kB"] - self.memtotal_expected
        return compared(difference("MemTotal since boot", expected_change, got - self.memtotal_got))

    def _tiers(self, operation: Operation) -> Verdict:
        got = probes.tiers(self.target)
        return compared([line for key in got for line in difference(key, operation[key], got[key])])

    def _tainted(self, operation: Operation) -> Verdict:
        expected, got = (
            normalise("tainted", str(value), self.context) for value in (operation["v"], probes.tainted(self.target))
        )
        return compared(difference("tainted", expected, got))

    # Commands ------------------------------------------------------------------------------------------------------

    def _sh(self, operation: Operation) -> Verdict:
        command = operation["cmd"]
        split = len(bash.parts(command)) > 1 and not self._compares_output(command)
        result = self.target.sh(bash.with_marks(command) if split else command, operation.get("tool"))
        unlike = version_differences(command, operation["tool"], result.stands_in) if result.stands_in else []
        differing = frozenset[str]().union(*(difference.parts for difference in unlike))
        differences = []
        if not STATUS_NOT_COMPARED.search(unquoted(command)) and "exit status" not in differing:
            differences += difference("exit status", operation["rc"], result.rc)
        for_command(self.context, command, command_names(command))
        if split and "stdout" not in differing:
            differences += self._part_differences(command, operation["stdout"], result.stdout)
        elif self._compares_output(command):
            for key, stream, got in (("stdout", "text", result.stdout), ("stderr", "stderr", result.stderr)):
                if key not in differing:
                    expected = normalise(stream, operation[key], self.context)
                    found = normalise(stream, self._as_recorded(got), self.context)
                    differences += difference(key, expected.split("\n"), found.split("\n"))
        if "messages" in differing:
            self.messages.observe(operation)
            self._discard(operation)
        else:
            differences += self._drained(operation)
        if unlike and not differences:
            verbs = ", ".join(verb for known in unlike for verb in known.verbs)
            without = f"{', '.join(sorted(differing))} of {verbs}"
            return Verdict(Kind.IN_PART, f"{without}: {result.stands_in} stands in for {operation['tool']}")
        if differences and _lacks_a_mailbox(operation, result, differences):
            return Verdict(Kind.KNOWN, _NO_MAILBOX, tuple(differences))
        return compared(differences)

    def _part_differences(self, command: str, recorded: str, marked: str) -> list[str]:
        """Compare the output of the commands of a line whose output is compared. In between anything may stand."""
        parts, own = bash.parts(command), marked.split("\0")
        expected = normalise("text", recorded, self.context)
        pattern, shown = "", []
        for part, text in zip(parts, [*own, *[""] * len(parts)], strict=False):
            if self._compares_output(part):
                found = normalise("text", self._as_recorded(text), self.context)
                pattern += re.escape(found)
                shown.append(found)
            else:
                pattern += "(?:.*\n)*"
        if re.fullmatch(pattern, expected):
            return []
        return difference("stdout in parts", expected.split("\n"), "".join(shown).split("\n"))

    def _compares_output(self, command: str) -> bool:
        if self.context.other_configuration and CUT_LISTING.search(command):
            return False
        not_compared = {*OUTPUT_NOT_COMPARED, *(OUTPUT_OF_NEWER_TOOLS if self.target.real_kernel else ())}
        if PATHS_NOT_COMPARED.search(command) or "--version" in command:
            return False
        return not command_names(command) & not_compared

    def _as_recorded(self, text: str) -> str:
        """The output of a command, on a kernel of another configuration with the recorded MemTotal at boot."""
        if not self.context.other_configuration or self.memtotal_expected is None or self.memtotal_got is None:
            return text
        return from_other_boot(text, self.memtotal_expected, self.memtotal_got)

    # Single calls --------------------------------------------------------------------------------------------------

    def _raw(self, operation: Operation) -> Verdict:
        stuck_offline = self._stuck_offline()
        if stuck_offline is not None:
            return compared(stuck_offline.compare_raw(operation))
        if raw.labelled(operation["label"]) is not None:
            differences = raw.by_label(self.descriptors, operation)
        else:
            if not operation.get("calls"):
                raise NotSupportedError(f"raw operation without calls: {operation['label']}")
            differences = [line for call in operation["calls"] for line in self.descriptors.perform(call)]
        return compared(differences + self._drained(operation))

    def _timed(self, operation: Operation) -> Verdict:
        if not operation.get("calls"):
            return NOTHING_TO_COMPARE
        return compared([line for call in operation["calls"] for line in self.descriptors.perform(call)])

    def _pinned(self, operation: Operation) -> Verdict:
        stuck_offline = self._stuck_offline()
        if stuck_offline is None or stuck_offline.stuck is None:
            return NOTHING_TO_COMPARE
        return compared(stuck_offline.compare_pinned(operation) + self._drained(operation))

    def _stuck_offline(self) -> concurrent.StuckOffline | None:
        """The stuck offline that this line belongs to, or None.

        Its first line replays all of it.
        """
        end = concurrent.pinned_index(self.operations, self.index)
        if end is None:
            return None
        if end not in self.stuck_offlines:
            self.stuck_offlines[end] = concurrent.StuckOffline(self.operations[end])
            self.stuck_offlines[end].replay(self.target, self.pinned_node)
        return self.stuck_offlines[end]

    # Background ----------------------------------------------------------------------------------------------------

    def _collect(self, operation: Operation) -> Verdict:
        self.target.await_quiet()
        return compared(self._drained(operation))

    def _fixture(self, operation: Operation) -> Verdict:
        what, node = operation["what"], operation.get("node")
        self.target.fixture(what, self.fixture_nodes.get(what) if node is None else node)
        self.fixture_nodes[f"{what}-released"] = node
        if what == "pin":
            self.pinned_node = node
        return REPRODUCED

    def _bg(self, operation: Operation) -> Verdict:
        for pattern, begin, end in _BACKGROUND_FIXTURES:
            found = pattern.search(operation["cmd"])
            if found is not None:
                node = int(found[1])
                self.target.fixture(begin, node)
                self.background.append((end, node))
                if begin == "pin":
                    self.pinned_node = node
                return REPRODUCED
        # a process with movable memory, which no file shows
        return NOTHING_TO_COMPARE

    def _bg_kill(self, operation: Operation) -> Verdict:
        """End what a `bg` began.

        A `fixture` line beside it does the same, and leaves nothing to end.
        """
        del operation
        if not self.background:
            return NOTHING_TO_COMPARE
        for end, node in reversed(self.background):
            self.target.fixture(end, node)
        self.background.clear()
        return REPRODUCED

    def _async_start(self, operation: Operation) -> Verdict:
        data = ast.literal_eval(operation["data"]).encode("latin-1")
        self.processes[operation["id"]] = self.target.spawn(operation["path"], data, operation["alarm_s"])
        return REPRODUCED

    def _async_poll(self, operation: Operation) -> Verdict:
        return compared(difference("task", operation["task"], self.processes[operation["id"]].letter))

    def _async_signal(self, operation: Operation) -> Verdict:
        self.target.signal(self.processes[operation["id"]], Signal[operation["sig"]])
        return REPRODUCED

    def _async_end(self, operation: Operation) -> Verdict:
        process = self.processes.pop(operation["id"])
        differences = []
        if not self.target.wait(process):
            if not operation.get("timeout"):
                differences.append("the write does not return")
            self.target.signal(process, Signal.SIGKILL)
        else:
            differences += outcome_differences(operation, process.outcome())
        following = self.operations[self.index + 1]["op"] if self.index + 1 < len(self.operations) else ""
        differences += self._drained(operation, last=following not in ENDS_TOGETHER)
        if not self.processes:
            self.messages.burst_seen = False
        return compared(differences)

    def _race(self, operation: Operation) -> Verdict:
        differences = concurrent.race_differences(self.target, operation)
        self.target.drain()
        self.after_race = _is_open(operation)
        return compared(differences)

    # Help ----------------------------------------------------------------------------------------------------------

    def _drained(self, operation: Operation, *, last: bool = True) -> list[str]:
        last = last and not self._is_collected()
        self.target.await_messages(len(operation.get("uevents", ())), len(operation.get("dmesg", ())))
        ordered = not (self.target.real_kernel and operation["op"] in ENDS_TOGETHER)
        ordered = ordered and not self._probes_memdevs()
        return self.messages.compare(operation, self.target.drain(), last=last, ordered=ordered)

    def _probes_memdevs(self) -> bool:
        """Whether the order of uevents is a matter of chance.

        Several CXL memory devices are probed at once. When cxl_acpi goes, they notice it in the background.
        """
        memdevs = len(self.session.header.get(MEMDEVS, ()))
        before = [operation for operation in self.operations[: self.index + 1] if operation["op"] not in _LOOKS]
        while before and before[-1]["op"] == "collect":
            before.pop()
        command = before[-1].get("cmd", "") if before and memdevs else ""
        return "rmmod cxl_acpi" in command or (memdevs > 1 and _PROBES_MEMDEVS.search(command) is not None)

    def _is_collected(self) -> bool:
        """Whether a `collect` follows: what the kernel does in the background is before or behind it by chance."""
        rest = (operation["op"] for operation in self.operations[self.index + 1 :])
        return next((kind for kind in rest if kind not in _LOOKS), "") == "collect"

    def _unless_after_race(self, verdict: Verdict) -> Verdict:
        """After a race of different words anything may be there, until the next write."""
        return NOTHING_TO_COMPARE if self.after_race else verdict


def _is_change_note(operation: Operation) -> bool:
    return operation["op"] == "note" and str(operation.get("text", "")).startswith(NOTE)


def outcome_differences(operation: Operation, outcome: Outcome) -> list[str]:
    """Differences of a write's result."""
    if operation.get("exit") == -9:  # noqa: PLR2004  wait status of SIGKILL
        return difference("exit", "killed", outcome.word if outcome.ret is None else f"returned {outcome.ret}")
    if outcome.killed:
        got: tuple[str, Any] = ("exit", "killed")
    elif outcome.open_errno is not None:
        got = ("open_errno", errno_name(outcome.open_errno))
    elif outcome.errno is not None:
        got = ("errno", errno_name(outcome.errno))
    else:
        got = ("ret", outcome.ret)
    return difference("write", _recorded_outcome(operation, "ret"), got)


_NO_MAILBOX = "cxl cannot ask a memory device: there are no ioctls on /dev/cxl/memN. The rest of the output is compared"


def _lacks_a_mailbox(operation: Operation, result: ShellResult, differences: list[str]) -> bool:
    """Whether the output of cxl only lacks what a memory device tells through ioctls (docs/what-is-not-real.md)."""
    if "cxl" not in command_names(operation["cmd"]) or not all(line.startswith("std") for line in differences):
        return False
    recorded = without_mailbox(operation["stdout"], operation["stderr"])
    return recorded == without_mailbox(result.stdout, result.stderr)


def _recorded_errno(operation: Operation) -> str | None:
    """The name, whether the recording has the name or the number."""
    return errno_name(errno_number(operation["errno"])) if "errno" in operation else None


def _recorded_outcome(operation: Operation, success: str) -> tuple[str, Any]:
    for key in ("open_errno", "errno"):
        if key in operation:
            return key, errno_name(errno_number(operation[key]))
    return success, operation.get(success)


def _names(expected: list[str] | None, got: list[str] | None) -> list[str]:
    if expected is None or got is None:
        return difference("names", expected, got)
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    return (difference("missing names", [], missing) if missing else []) + (
        difference("names too many", [], extra) if extra else []
    )


def _recorded_memtotal(facts: dict[str, Any] | None, header: Operation) -> int | None:
    variant = (facts or {}).get("variants", {}).get(header["variant"], {})
    for place in (header, variant, facts or {}):
        if isinstance(value := place.get(MEMTOTAL), int):
            return value
    return None


def describe(operation: Operation) -> str:
    """An operation in a few words."""
    kind = operation["op"]
    subject = operation.get("path") or operation.get("cmd") or operation.get("label") or operation.get("title") or ""
    number = f" #{operation['id']}" if "id" in operation else ""
    data = f" {brief(operation['data'])}" if kind in {"write", "async_start"} else ""
    return f"{kind}{number} {subject}{data}".rstrip()


def _bug(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else ""
    return f"exception {type(error).__name__}: {error}{place}"


def compared_operations(operations: list[Operation]) -> Iterator[tuple[int, Operation]]:
    """The operations of a session whose answer is compared, with their indexes.

    The same as those that a whole replay gives a verdict other than INFORMATIVE.
    """
    after_race = False
    background = 0
    for index, operation in enumerate(operations):
        kind = operation["op"]
        if kind == "write":
            after_race = False
        starts = kind == "bg" and any(pattern.search(operation["cmd"]) for pattern, _, _ in _BACKGROUND_FIXTURES)
        background += starts
        idle = (
            kind in INFORMATIVE
            or (kind == "timed" and not operation.get("calls"))
            or (kind == "bg" and not starts)
            or (kind == "bg_kill" and not background)
            or (kind == "pinned" and concurrent.pinned_index(operations, max(index - 1, 0)) != index)
            or (after_race and kind in {"read", "blocks", "iomem"})
        )
        if kind == "bg_kill":
            background = 0
        if kind == "race":
            after_race = _is_open(operation)
        if not idle:
            yield index, operation


def _is_open(race: Operation) -> bool:
    """Whether a race of different words leaves the machine in a state that the recording does not determine."""
    words = [sorted(data) for _, _, data in race["writers"]]
    return any(words[0] != other for other in words[1:])


_FIRST_KERNEL_ERRNO = 512


def known(operation: Operation, differences: tuple[str, ...]) -> str | None:
    """Why a mount cannot show the recorded answer, or None (FORMAT.md, "Not reachable through a FUSE mount").

    The answer must be the one that is to come instead.
    """
    kind, recorded = operation["op"], operation.get("errno")

    def is_only(got: object) -> bool:
        return len(differences) == 1 and differences[0].endswith(f"got {got!r}")

    if kind == "write" and recorded is not None:
        if str(recorded).isdigit() and int(recorded) >= _FIRST_KERNEL_ERRNO and is_only(("errno", "EIO")):
            return "the host answers EIO for an errno of 512 and more"
        if operation["len"] == 0 and recorded == "EINVAL" and is_only(("ret", 0)):
            return "a write of 0 bytes does not reach the server: the host answers 0"
    if kind == "async_poll" and operation["task"] != "finished" and any(map(is_only, "SDR")):
        return "the letter is that of a process that waits for FUSE: only `finished` can be compared"
    dead = [call for call in operation.get("calls", ()) if call["fn"] == "lseek" and call.get("errno") == "ENODEV"]
    if dead and all(difference.startswith("lseek(") for difference in differences) and len(differences) <= len(dead):
        return "lseek on a dead descriptor does not reach the server: the host answers the position"
    return None
