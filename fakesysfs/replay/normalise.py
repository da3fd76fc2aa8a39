"""What may differ between a recording and its replay: one list, each entry with its reason.

The entries come from FORMAT.md, "Depends on the guest" and "Exceptions". Both sides go through the
same functions. Anything that no entry changes is compared as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from fakesysfs.kernel.cxl.acpi import WAKEUP_NUMBER
from fakesysfs.replay.daxctl_versions import Version, version_of
from fakesysfs.replay.recording import Value


@dataclass(slots=True)
class Context:
    """What a normalisation knows of the session."""

    names_freed: bool = False
    """The kernel has freed a name that /proc/iomem still shows."""
    module_command: bool = False
    """The command loads or unloads modules."""
    counters: bool = False
    """The command reads vmstat, zoneinfo or numastat."""
    other_build: bool = False
    """The recording says how much memory its kernel left at boot: the machine of the model may be another build's."""
    other_configuration: bool = False
    """A real kernel of another configuration answers: ENVELOPE holds too."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """One allowed difference.

    `stream`: dmesg, uevents, iomem (lists of lines), names (of a directory), data (of a
    file), text (output of commands), stderr, tainted.
    """

    name: str
    stream: str
    reason: str
    apply: Callable[[Any, Context], Any]


def normalise(stream: str, value: Value, context: Context) -> Value:
    """`value` without what may differ."""
    for normalisation in (*NORMALISATIONS, *ENVELOPE) if context.other_configuration else NORMALISATIONS:
        if normalisation.stream == stream:
            value = normalisation.apply(value, context)
    return value


# Functions --------------------------------------------------------------------------------------------------------


def _without(pattern: str) -> Callable[[list[str], Context], list[str]]:
    compiled = re.compile(pattern)
    return lambda lines, _context: [line for line in lines if not compiled.search(line)]


def _replaced(pattern: str, replacement: str) -> Callable[[list[str], Context], list[str]]:
    compiled = re.compile(pattern)
    return lambda lines, _context: [compiled.sub(replacement, line) for line in lines]


def _without_lines(pattern: str) -> Callable[[str, Context], str]:
    compiled = re.compile(pattern)
    return lambda text, _context: "".join(
        line for line in text.splitlines(keepends=True) if not compiled.search(line.rstrip("\n"))
    )


def _text_replaced(pattern: str, replacement: str) -> Callable[[str, Context], str]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text, _context: compiled.sub(replacement, text)


_DUMP = re.compile(r"<\d>page dumped because: ")


def _dumps_once(lines: list[str], _context: Context) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if not (_DUMP.match(line) and line in kept):
            kept.append(line)
    return kept


_ND = re.compile(
    r"@/bus/nd\b|@/class/nd\b|@/bus/platform/drivers/e820_pmem$|@/devices/platform/e820_pmem$|@/devices/virtual/bdi/"
)
_ND_SUBSYSTEMS = {"SUBSYSTEM=nd", "SUBSYSTEM=block", "SUBSYSTEM=bdi"}


def _without_nd(uevents: list[list[str]], _context: Context) -> list[list[str]]:
    return [event for event in uevents if not (_ND.search(event[0]) or _ND_SUBSYSTEMS & set(event))]


def _without_modules(uevents: list[list[str]], _context: Context) -> list[list[str]]:
    return [event for event in uevents if "@/module/" not in event[0]]


def _without_seqnum(uevents: list[list[str]], _context: Context) -> list[list[str]]:
    return [[line for line in event if not line.startswith("SEQNUM=")] for event in uevents]


_CXL_REGION_BOUND = re.compile(r"bind@(?P<region>\S+/region\d+)")


def _bound_before_the_background(uevents: list[list[str]], _context: Context) -> list[list[str]]:
    """Move `bind` of a CXL region to right behind the `add` of its dax region."""
    moved = list(uevents)
    for event in uevents:
        bound = _CXL_REGION_BOUND.fullmatch(event[0])
        if bound is None:
            continue
        added = re.compile(rf"add@{re.escape(bound['region'])}/dax_region\d+")
        before = next((place for place, other in enumerate(moved) if added.fullmatch(other[0])), None)
        if before is not None and before < (place := moved.index(event)):
            moved.insert(before + 1, moved.pop(place))
    return moved


_IOMEM_LINE = re.compile(r"( *)([0-9a-f]+)-([0-9a-f]+) : (.*)", re.DOTALL)
_IOMEM_NAMES = re.compile(r"System RAM|dax|kmem|[Pp]ersistent [Mm]emory|RAM buffer")
_FIXED_NAMES = {"System RAM", "System RAM (kmem)", "RAM buffer", "Persistent Memory (legacy)", "Reserved"}
_FOUR_GIB = 1 << 32


def _recorded_iomem(lines: list[str], _context: Context) -> list[str]:
    kept = []
    within: int | None = None  # the indentation of the PCI bus whose devices follow
    for line in lines:
        found = _IOMEM_LINE.fullmatch(line)
        indentation = len(found[1]) if found else 0
        if within is None or indentation <= within:
            within = indentation if found and "PCI" in found[4] else None
        high = found is not None and int(found[2], 16) >= _FOUR_GIB
        if found is None or (within is None and (high or _IOMEM_NAMES.search(found[4]))):
            kept.append(line)
    return kept


def _freed_names(lines: list[str], context: Context) -> list[str]:
    if not context.names_freed:
        return lines
    kept = []
    for line in lines:
        found = _IOMEM_LINE.fullmatch(line)
        freed = found is not None and int(found[2], 16) >= _FOUR_GIB and found[4] not in _FIXED_NAMES
        kept.append(f"{found[1]}{found[2]}-{found[3]} : <name>" if found and freed and "PCI" not in found[4] else line)
    return kept


def _low_iomem(text: str, context: Context) -> str:
    lines = []
    for line in text.split("\n"):
        found = _IOMEM_LINE.fullmatch(line)
        if found is None or int(found[2], 16) >= _FOUR_GIB:
            lines += _freed_names([line], context)
    return "\n".join(lines)


_COUNTER = re.compile(
    r"(?:^|:)\s*(?!nr_memmap|spanned |present |managed |start_pfn)[a-z][\w ]*:?\s+\d+$|^\s+protection: |^\s+pagesets$"
)


def _without_counters(text: str, context: Context) -> str:
    if not context.counters:
        return text
    return "".join(line for line in text.splitlines(keepends=True) if not _COUNTER.search(line.rstrip("\n")))


_OPTIONAL_NAMES = frozenset(
    {"crash_hotplug", "hard_offline_page", "memory_failure", "power", "soft_offline_page", "x86"}
)
_LISTED_POWER = re.compile(r"^(?:d\S+ +\d+ .* )?power\n", re.MULTILINE)
_LINKS = re.compile(r"^(d[rwx-]{9}) +\d+ ", re.MULTILINE)
_NODE_SIZE = re.compile(r"^(node [013] size:|Node [013] MemTotal:) +\d+ [kM]B$", re.MULTILINE)
_ZONE_AT_BOOT = re.compile(r"^(Node [013], zone .*\n(?:(?!Node )(?! *managed ).*\n)*) *managed +\d+\n", re.MULTILINE)
_MANAGED = re.compile(r"^ *managed +\d+\n", re.MULTILINE)
_MEMTOTAL = re.compile(r"^(MemTotal:       ) *(\d+) kB$", re.MULTILINE)
_TAINT_OOT_MODULE = 1 << 12
_MAJOR = re.compile(r"^MAJOR=\d+$", re.MULTILINE)

_COLUMNS = re.compile(
    r"(?:Memory block size|Total (?:online|offline) memory): +\S+"  # lsmem
    r"|node(?: +\d+)+ *| +\d+:(?: +\d+)+ *"  # numactl -H
)


def _narrow_columns(text: str, _context: Context) -> str:
    return "\n".join(" ".join(line.split()) if _COLUMNS.fullmatch(line) else line for line in text.split("\n"))


def _module_chatter(text: str, context: Context) -> str:
    return "" if context.module_command else text


_SHELL_MESSAGES = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"^\S*sh: (?:line )?(?:\d+: )?(?:echo: |printf: ){0,2}(?:write error|I/O error)\b", "sh: write error"),
        (r"^\S*sh: (?:line )?(?:\d+: )?(?:can't create |can't open |cannot create )?(/[^\n]*): ", r"sh: \1: "),
        (r"^(cat|ls): (?:can't open |cannot access )?[^\n]*: (?=[^:\n]*$)", r"\1: <file>: "),
        (r": (?:nonexistent directory|no such file|Directory nonexistent)$", ": No such file or directory"),
    )
)


def _shell_messages(text: str, _context: Context) -> str:
    for pattern, replacement in _SHELL_MESSAGES:
        text = pattern.sub(replacement, text)
    return text


def _without_managed(text: str, _context: Context) -> str:
    return _ZONE_AT_BOOT.sub(r"\1", text)


def _without_managed_pages(text: str, context: Context) -> str:
    return _MANAGED.sub("", text) if context.other_build else text


NORMALISATIONS = (
    Normalisation(
        "total pages",
        "dmesg",
        "`Total pages: X` varies by a few pages from boot to boot",
        _replaced(r"Total pages: \d+", "Total pages: <n>"),
    ),
    Normalisation(
        "migration bursts",
        "dmesg",
        "the number of reports of an unmovable page is arbitrary; messages.Comparison compares whether any came",
        _without(r"<4>(migrating pfn |do_migrate_range: |page dumped because: migration failure)"),
    ),
    Normalisation("dumps", "dmesg", "recorded without repetitions in one operation", _dumps_once),
    Normalisation(
        "line of a WARN",
        "dmesg",
        "the line number depends on the build",
        _replaced(r"(WARNING: \S+?\.c):\S+ at", r"\1:<line> at"),
    ),
    Normalisation(
        "nd bus",
        "dmesg",
        "the nd bus is outside the model; session 7.2/09 means that a pmem devdax namespace appears",
        _without(r"<\d>nd_pmem "),
    ),
    Normalisation("SEQNUM", "uevents", "removed from the recordings", _without_seqnum),
    Normalisation("modules", "uevents", "a fake may leave @/module/ events out", _without_modules),
    Normalisation("nd bus", "uevents", "see dmesg", _without_nd),
    Normalisation(
        "bind of a CXL region",
        "uevents",
        "its dax region is probed in the background, which may be faster than the end of the bind",
        _bound_before_the_background,
    ),
    Normalisation(
        "iomem lines",
        "iomem",
        "the recorder kept only these lines; PCI and firmware belong to the guest",
        _recorded_iomem,
    ),
    Normalisation("freed names", "iomem", "use after free: a freed name is arbitrary bytes", _freed_names),
    Normalisation(
        "low iomem",
        "text",
        "below 4 GiB /proc/iomem shows the guest's firmware and PCI; freed names are arbitrary bytes",
        _low_iomem,
    ),
    Normalisation(
        "dates of ls",
        "text",
        "dates are those of the recording",
        _text_replaced(r"^([bcdlps-][rwxsStT-]{9} .*?)[A-Z][a-z]{2} [ \d]\d  ?(\d\d:\d\d|\d{4}) ", r"\1<date> "),
    ),
    Normalisation(
        "keys of persistent memory",
        "stderr",
        "ndctl has modprobe load them with libnvdimm (/etc/modprobe.d); the guest has no TPM",
        _without_lines(r"^No TPM handle discovered\.$|^failed to open file /etc/ndctl/keys/"),
    ),
    Normalisation(
        "free memory", "text", "numactl -H: it depends on what else runs", _without_lines(r"^node \d+ free: ")
    ),
    Normalisation(
        "columns",
        "text",
        "util-linux 2.41 (the summary of lsmem) and numactl 2.0.19 (distances) print wider columns",
        _narrow_columns,
    ),
    Normalisation(
        "used memory",
        "text",
        "meminfo: everything except MemTotal depends on what else runs",
        _without_lines(r"(?:^|:)(?:Node \d+ )?(?!MemTotal)[A-Z][\w()]*: +\d+ kB$"),
    ),
    Normalisation(
        "counters",
        "text",
        "vmstat, zoneinfo and numastat: only the spans and sizes of zones and the memory maps are compared",
        _without_counters,
    ),
    Normalisation(
        "managed pages",
        "text",
        "zoneinfo, in a recording of the lab: each build of a kernel takes another part at boot; MemTotal is compared",
        _without_managed_pages,
    ),
    Normalisation(
        "shell",
        "stderr",
        "busybox, dash and bash, and their ls and cat, say the same in other words",
        _shell_messages,
    ),
    Normalisation(
        "modules' messages",
        "stderr",
        "modprobe's own messages, and those about modules outside the model",
        _module_chatter,
    ),
)
"""The declared list."""

ENVELOPE = (
    Normalisation(
        "dax major",
        "uevents",
        "the kernel hands out the majors of character devices: it depends on the drivers that are built in",
        lambda uevents, _context: [[_MAJOR.sub("MAJOR=<n>", line) for line in event] for event in uevents],
    ),
    Normalisation("dax major", "data", "see uevents", lambda text, _context: _MAJOR.sub("MAJOR=<n>", text)),
    Normalisation("dax major", "text", "see uevents", lambda text, _context: _MAJOR.sub("MAJOR=<n>", text)),
    Normalisation(
        "out-of-tree module",
        "dmesg",
        "the recorded kernels had notifier_error_inject built apart; a distribution's has it in tree",
        _without(r"<4>notifier_error_inject: loading out-of-tree module taints kernel\.$"),
    ),
    Normalisation(
        "out-of-tree module",
        "tainted",
        "see dmesg",
        lambda value, _context: str(int(value) & ~_TAINT_OOT_MODULE),
    ),
    Normalisation(
        "names of other options",
        "names",
        "CONFIG_PM, _CRASH_HOTPLUG, _MEMORY_FAILURE and _X86_SGX are off in the recorded small configuration",
        lambda names, _context: [name for name in names if name not in _OPTIONAL_NAMES],
    ),
    Normalisation(
        "names of other options",
        "text",
        "see names: directories have one more subdirectory, `power`",
        lambda text, _context: _LINKS.sub(r"\1 <links> ", _LISTED_POWER.sub("", text)),
    ),
    Normalisation(
        "memory of a node",
        "text",
        "numactl -H, meminfo: the memory that the kernel itself takes at boot depends on what is built in",
        lambda text, _context: _NODE_SIZE.sub(r"\1 <n>", text),
    ),
    Normalisation("memory of a zone", "text", "zoneinfo: see memory of a node", _without_managed),
    Normalisation(
        "demotion targets",
        "dmesg",
        "CONFIG_NUMA_MIGRATION is off in the recorded small configuration",
        _without(r"<6>Demotion targets for Node "),
    ),
)
"""What may differ, too, where a distribution's kernel replays the recording of a small configuration."""


def depends_on_an_option(path: str) -> bool:
    """Whether the recorded small configuration lacks a path only because of an option."""
    return not _OPTIONAL_NAMES.isdisjoint(path.split("/"))


def with_wakeup_number(value: Value) -> Value:
    """What was recorded, with the model's number of a wakeup source: it says how many others came before."""
    if isinstance(value, str):
        return _WAKEUP.sub(f"wakeup{WAKEUP_NUMBER}", value)
    if isinstance(value, list):
        return [with_wakeup_number(item) for item in value]
    if isinstance(value, dict):
        return {with_wakeup_number(key): with_wakeup_number(item) for key, item in value.items()}
    return value


_WAKEUP = re.compile(r"\bwakeup\d+\b")


STATUS_NOT_COMPARED = re.compile(r"(^|[;&|] *)dmesg \| grep [^|;]*$")
"""The exit status of such a command line says whether a word is in the guest's log since boot.

The firmware and the drivers of the guest write there, e.g. the lines of ACPI about its HMAT.
"""

OUTPUT_NOT_COMPARED = {
    "dmesg": "the guest's log since boot",
    "lsmod": "sizes and users of modules, of which the guest has more",
    "ndctl": "the nd bus is outside the model",
    "numastat": "counters of a process",
    "time": "how long it took",
}
"""Commands whose output depends on the guest (FORMAT.md, Exceptions, `sh`), and why.

Of a line of several commands the output of the others is compared, and the exit status of the line.
"""


MAILBOX_KEYS = frozenset({"health", "alert_config", "partition_info", "firmware", "media_errors"})
"""Keys of `cxl list` whose values a memory device tells through ioctls on /dev/cxl/memN, or through a tracer."""

_NO_MAILBOX = re.compile(
    r"libcxl: (?:do_cmd: failed to open /dev/cxl/|alloc_do_query: |cxl_cmd_new_generic: ).*"
    r"|tracefs_instance_create\(\) failed"
)


def without_mailbox(stdout: str, stderr: str) -> tuple[object, str]:
    """The output of cxl without what needs such an ioctl, and without its complaints that it cannot be had."""
    complaints = "".join(
        line for line in stderr.splitlines(keepends=True) if not _NO_MAILBOX.fullmatch(line.rstrip("\n"))
    )
    try:
        return _without_keys(json.loads(stdout)), complaints
    except ValueError:
        return stdout, complaints


def _without_keys(value: Value) -> Value:
    if isinstance(value, dict):
        return {key: _without_keys(item) for key, item in value.items() if key not in MAILBOX_KEYS}
    return [_without_keys(item) for item in value] if isinstance(value, list) else value


PATHS_NOT_COMPARED = re.compile(r"/sys/(?:bus|class)/nd\b")
"""A command that lists these is not compared: the model has the namespace of the nd bus, but none of its seeds."""

OUTPUT_OF_NEWER_TOOLS = frozenset({"lsmem", "numactl"})
"""Commands whose output is not compared either where a real kernel's guest runs newer tools.

lsmem of util-linux 2.41 prints other columns and one more line, which shifts what `tail` leaves. numactl 2.0.19 prints
wider columns, and sizes of nodes without what that kernel took at boot.
"""


CUT_LISTING = re.compile(r"\bfind /sys[^|]*\| head\b")
"""A command line whose output is not compared on a kernel of another configuration.

The further names shift what `head` leaves.
"""


def from_other_boot(text: str, boot: int, other_boot: int) -> str:
    """A text with MemTotal as if it had been `boot` kB and not `other_boot` at boot.

    What the kernel itself takes at boot depends on what is built in; the change since then does not.
    """
    return _MEMTOTAL.sub(lambda found: f"{found[1]}{int(found[2]) + boot - other_boot:>8} kB", text)


class VersionDifference(NamedTuple):
    """A change of behaviour between two versions of daxctl, in some of its verbs."""

    verbs: tuple[str, ...]
    last_old: Version
    """The newest version known to behave the old way."""
    first_new: Version
    """The oldest version known to behave the new way."""
    parts: frozenset[str]
    """What differs: exit status, stdout, stderr, messages (log and uevents)."""
    reason: str

    def is_between(self, one: Version, other: Version) -> bool:
        """Whether two versions may differ. A version between the bounds may behave either way."""
        older, newer = sorted((one, other))
        return older != newer and older < self.first_new and newer > self.last_old


VERSION_DIFFERENCES = (
    VersionDifference(
        ("enable-device", "disable-device", "destroy-device"),
        (76, 1),
        (81,),
        frozenset({"exit status", "stderr"}),
        "with nothing to do, daxctl 76.1 fails (250, 240) and 81 succeeds",
    ),
    VersionDifference(
        ("reconfigure-device",),
        (81,),
        (85,),
        frozenset({"stderr", "messages"}),
        "in the wanted mode already, daxctl 81 says so and leaves the device; 85 says nothing and may bind it again",
    ),
)
"""What is not compared where another daxctl stands in for the recorded version (KERNEL.md 5)."""


def for_command(context: Context, command: str, names: set[str]) -> None:
    """Note in the context what a command line does. `names` are the commands that it runs."""
    context.module_command = bool(names & {"modprobe", "rmmod"})
    context.counters = re.search(r"\b(vmstat|zoneinfo|numastat)\b", command) is not None


def version_differences(command: str, recorded: str, run: str) -> list[VersionDifference]:
    """The changes that may show in a command line where tool `run` replaces tool `recorded`.

    Both are names such as `daxctl-85`.
    """
    one, other, words = version_of(recorded), version_of(run), set(re.findall(r"[\w-]+", command))
    return [known for known in VERSION_DIFFERENCES if known.is_between(one, other) and words & set(known.verbs)]
