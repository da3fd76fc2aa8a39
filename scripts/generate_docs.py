"""Write what is generated from tables: docs/abi.md, cli.md, kernels.md, machines.md, and what is counted.

    .venv/bin/python scripts/generate_docs.py

A test holds that the pages are what this would write.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from fakesysfs import cli as commands
from fakesysfs.control.blocks import CONTROL_BLOCK
from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.dax.kmem import Kmem
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import DAX_KMEM_UNPLUGGED, PROFILES, Mmop, Profile
from fakesysfs.kernfs.declare import Attribute, DeviceNode, DeviceNodes, Entry, Group, Indexed, Link, Links
from fakesysfs.machine import builtin, describe, load
from fakesysfs.machine import cxl as cxl_tables
from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from fakesysfs.replay import cli as replay_command
from fakesysfs.replay import kernel_target, model_target, normalise, record, snapshots
from fakesysfs.replay.cli import counted
from fakesysfs.replay.recording import Snapshot, find
from fakesysfs.replay.recording import load as recording_of
from fakesysfs.sysfs import cxl, dax, debugfs, memory, module, nd, node
from fakesysfs.sysroot import Sysroot

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PROSE_WIDTH = 100
ABI_WIDTH = 76
"""Behind two tabs."""

PATTERNS = {
    memory.MEMORY_BLOCK: "/sys/devices/system/memory/memoryN",
    node.NODE_KIND: "/sys/devices/system/node/nodeN",
    node.MEMORY_TIER: "/sys/devices/virtual/memory_tiering/memory_tierN",
    node.CPU_KIND: "/sys/devices/system/cpu/cpuN",
    dax.DEV_DAX: "/sys/bus/dax/devices/daxX.Y",
    dax.DAX_MAPPING: "/sys/bus/dax/devices/daxX.Y/mappingN",
    dax.PLATFORM_DEVICE: "/sys/devices/platform/DEVICE",
    dax.CXL_DEVICE: "/sys/bus/cxl/devices/DEVICE",
    cxl.CXL_BUS: "/sys/bus/cxl",
    cxl.CXL_PORT: "/sys/bus/cxl/devices/portN",
    cxl.CXL_ROOT_DECODER: "/sys/bus/cxl/devices/decoder0.N",
    cxl.CXL_SWITCH_DECODER: "/sys/bus/cxl/devices/decoderP.N",
    cxl.CXL_ENDPOINT_DECODER: "/sys/bus/cxl/devices/decoderE.N",
    cxl.CXL_REGION: "/sys/bus/cxl/devices/regionN",
    cxl.CXL_DAX_REGION: "/sys/bus/cxl/devices/dax_regionN",
    cxl.CXL_PLAIN_DEVICE: "/sys/bus/cxl/devices/pmem_regionN",
    cxl.CXL_MEMDEV: "/sys/bus/cxl/devices/memN",
    cxl.FIRMWARE_UPLOAD: "/sys/bus/cxl/devices/memN/firmware/memN",
    cxl.CXL_DEBUGFS: f"{debugfs.PATH}/cxl/DEVICE",
    cxl.ACPI_CXL_DEVICE: "/sys/devices/platform/ACPI0017:00",
    cxl.WAKEUP_SOURCE: "/sys/devices/platform/ACPI0017:00/wakeup/wakeupN",
    cxl.ACPI_DEVICE: "/sys/devices/LNXSYSTM:00/DEVICE",
    cxl.PCI_HOST_BRIDGE: "/sys/devices/pciDOMAIN:BUS",
    cxl.PCI_DEVICE: "/sys/bus/pci/devices/DEVICE",
    nd.ND_DEVICE: "/sys/bus/nd/devices/DEVICE",
    dax.DRIVER: "/sys/bus/BUS/drivers/DRIVER",
    dax.BUS: "/sys/bus/BUS",
    module.MODULE: "/sys/module/MODULE",
    module.BUILT_IN_MODULE: "/sys/module/BUILT_IN",
    debugfs.NOTIFIER_ERROR_INJECT: f"{debugfs.PATH}/notifier-error-inject",
    debugfs.NOTIFIER_ERR_INJECT: f"{debugfs.PATH}/notifier-error-inject/CHAIN",
    debugfs.NOTIFIER_ERR_INJECT_ACTION: f"{debugfs.PATH}/notifier-error-inject/CHAIN/actions/EVENT",
    CONTROL_BLOCK: "/control/blocks/memoryN",
}
"""Where the directories of each kind are."""

STATES = (DAX_KMEM_UNPLUGGED, *Mmop)


def static_directories() -> Iterator[tuple[str, tuple[Entry[Any], ...]]]:
    """The directories that stand for no object, by path."""
    sysroot = Sysroot.boot(load("cxl-server"), next(iter(PROFILES.values())))
    for path, directory in sysroot.static_directories().items():
        yield path, directory.kind.entries


def entries(path: str, table: tuple[Entry[Any], ...]) -> Iterator[tuple[str, str, str]]:
    """(path, mode or what it is, description) of each entry, groups included."""
    for entry in table:
        if isinstance(entry, Attribute):
            yield f"{path}/{entry.name}", f"{entry.mode:04o}{'' if entry.listed else ', not listed'}", entry.doc
        elif isinstance(entry, Link):
            yield f"{path}/{entry.name}", "symbolic link", entry.doc
        elif isinstance(entry, Group):
            yield f"{path}/{entry.name}/", "directory", entry.doc
            yield from entries(f"{path}/{entry.name}", entry.entries)
        elif isinstance(entry, Indexed):
            what = "directories" if entry.directory else "symbolic links"
            yield f"{path}/{entry.prefix}N", what, entry.doc
        elif isinstance(entry, Links):
            yield f"{path}/...", "symbolic links", entry.doc
        elif isinstance(entry, DeviceNode):
            yield f"{path}/{entry.name}", f"character device {entry.mode:04o}", entry.doc
        elif isinstance(entry, DeviceNodes):
            yield f"{path}/...", "character devices", entry.doc
        else:
            yield f"{path}/...", "directories", entry.doc


def abi() -> str:
    """docs/abi.md, in the form of the kernel's Documentation/ABI."""
    parts = [
        "# ABI\n",
        "`scripts/generate_docs.py` writes this page from the attribute tables. Paths are inside the mount.",
        "The kernel, its configuration and the device decide which attributes exist.\n",
        "A read of a file that is `not listed` waits for more. The file can be opened by its name, but `ls`",
        "does not show it, so that `cp -r`, `grep -r` and `tar` end.\n",
        "```",
    ]
    tables = [(path, kind.entries) for kind, path in PATTERNS.items()]
    tables += [(path, table) for path, table in static_directories() if table]
    seen: set[str] = set()
    for base, table in sorted(tables, key=lambda item: item[0]):
        for path, mode, doc in entries(base, table):
            if path in seen or not doc:
                continue
            seen.add(path)
            description = "\n\t\t".join(textwrap.wrap(doc, ABI_WIDTH, break_on_hyphens=False))
            parts.append(f"What:\t\t{path}\nMode:\t\t{mode}\nDescription:\n\t\t{description}\n")
    return "\n".join([*parts, "```", ""])


def word(profile: Profile, state: int) -> str:
    """What the attribute reads in a state; the states that a profile cannot tell apart read alike."""
    return profile.words_read.get(state, "?")


def transition(profile: Profile, state: int, wanted: int) -> str:
    """What a write does to a device bound in a state: tried on the model."""
    policy = Mmop.ONLINE_MOVABLE if state == DAX_KMEM_UNPLUGGED else Mmop(state)
    kernel = Kernel(replace(load("default").setup(), default_online_type=policy), profile)
    sched.run(kernel.boot())
    device = kernel.dax_bus.devices["dax0.0"]
    driver = kernel.dax_bus.drivers["kmem"]
    assert isinstance(device, DevDax)
    assert isinstance(driver, Kmem)
    if device.driver is None:
        return "(such a device cannot be bound)"
    written = {asked: name.encode() for name, asked in profile.words_written.items()}
    if state == DAX_KMEM_UNPLUGGED:
        sched.run(driver.hotplug_store(device, written[state]))
    before = driver.hotplug_show(device)
    try:
        sched.run(driver.hotplug_store(device, written[wanted]))
    except KernelError as error:
        return error.name
    after = driver.hotplug_show(device)
    return "nothing" if before == after else f"`{after}`"


def kernels() -> str:
    """docs/kernels.md: which kernel does what."""
    parts = [
        "# Which kernel does what\n",
        "`scripts/generate_docs.py` writes this page from the profiles (`fakesysfs/kernel/profile.py`).\n",
        "A row is a field of the profile. [KERNEL.md](KERNEL.md#profiles) has the behaviours in words.\n",
        "| behaviour | " + " | ".join(PROFILES) + " |",
        "|---" * (len(PROFILES) + 1) + "|",
    ]
    profiles = list(PROFILES.values())
    for name in Profile.__dataclass_fields__:
        if name in {"name", "title"}:
            continue
        row = [_shown(getattr(profile, name)) for profile in profiles]
        parts.append(f"| {name.replace('_', ' ')} | " + " | ".join(row) + " |")
    for profile in profiles:
        if profile.attribute is None:
            continue
        parts += ["", f"## `{profile.attribute}` on {profile.name}", ""]
        parts.append("Result of a write, for each word that the attribute reads (tried on the model):\n")
        states = [state for state in STATES if state in profile.words_read]
        words = list(profile.words_written)
        parts.append("| reads | " + " | ".join(f"`{text}`" for text in words) + " | any other word |")
        parts.append("|---" * (len(words) + 2) + "|")
        for state in states:
            cells = [transition(profile, state, profile.words_written[text]) for text in words]
            label = f"`{word(profile, state)}`" + (
                " (policy online_kernel)" if word(profile, state) != _ALL[state] else ""
            )
            parts.append(f"| {label} | " + " | ".join(cells) + " | EINVAL |")
    return "\n".join([*parts, ""])


_ALL = {DAX_KMEM_UNPLUGGED: "unplugged", **{state: state.name.lower() for state in Mmop}}


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return ", ".join(sorted(item.name.lower() for item in value))
    if hasattr(value, "items"):
        return ", ".join(dict.fromkeys(str(item) for item in (value.values() if _is_read(value) else value)))
    return str(getattr(value, "value", value))


def _is_read(value: object) -> bool:
    return all(isinstance(key, int) for key in value)  # type: ignore[attr-defined]


def machines() -> str:
    """docs/machines.md: what a machine file may say."""
    parts = [
        "# Machine files\n",
        "`scripts/generate_docs.py` writes this page from the types that check machine files",
        "(`fakesysfs/machine/describe.py` and `cxl.py`).\n",
        "A machine is a TOML file. `fakesysfs check FILE` says what is wrong with one: the file, the key, the",
        'value and what is allowed. `extends = "NAME"` starts from a built-in machine: tables are merged,',
        "everything else is replaced. A size or an address is a number of bytes or a string like",
        '`"128M"`, `"0x180000000"`.\n',
        "## Built-in machines\n",
        "| name | machine |",
        "|---|---|",
        *(f"| `{name}` | {title} |" for name, title in builtin().items()),
        "",
        "## Example\n",
        "This is `tiny`:\n",
        "```toml",
        (ROOT / "fakesysfs/machine/machines/tiny.toml").read_text(encoding="utf-8").rstrip(),
        "```",
    ]
    for title, form in (
        ("The file", describe._File),  # noqa: SLF001  the form of the whole file
        ("`[[node]]`", describe.NodeSection),
        ("`[[dax_region]]`", describe.DaxRegionSection),
        ("`[cxl]`", cxl_tables.CxlSection),
        ("`windows = [...]` of `[cxl]`", cxl_tables.CxlWindowSection),
        ("`devices = [...]` of `[cxl]`", cxl_tables.CxlDeviceSection),
        ("`regions = [...]` of `[cxl]`", cxl_tables.CxlRegionSection),
        ("`[[hmat]]`", describe.Hmat),
        ("`reserved = [...]`", describe.Reserved),
        ("`iomem = [...]`", describe.Iomem),
        ("`unmovable = [...]`", describe.Unmovable),
        ("`memory = [...]`, `soft_reserved = [...]`", describe.Span),
        ("`[memory_hotplug]`", describe.MemoryHotplugSection),
        ("`[kernel]`", describe.KernelSection),
        ("`[latency]`", describe.Latency),
    ):
        text = inspect.cleandoc(form.__doc__ or "")
        paragraphs = [textwrap.fill(part, PROSE_WIDTH) for part in text.split("\n\n")]
        parts += ["", f"## {title}", "", "\n\n".join(paragraphs), "", "| key | value | default |", "|---|---|---|"]
        hints = get_type_hints(form, include_extras=True)
        for field in msgspec.structs.fields(form):
            default = "required" if field.required else f"`{_toml(field.default)}`"
            parts.append(f"| `{field.encode_name}` | {_allowed(hints[field.name])} | {default} |")
    return "\n".join([*parts, ""])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int | float):
        return str(value)
    return "none" if value is None else "empty"


def _allowed(kind: object) -> str:
    """What a key takes, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [
            f"{what} {getattr(meta, name)}"
            for meta in arguments[1:]
            for what, name in (("at least", "ge"), ("at most", "le"))
            if getattr(meta, name, None) is not None
        ]
        return ", ".join([_allowed(arguments[0]), *limits])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of: {_allowed(arguments[0])}"
    if origin is dict:
        return f"table of: {_allowed(arguments[1])}"
    if origin is UnionType:
        words = [_allowed(one) for one in arguments if one is not NoneType]
        return "size" if {"number", "text"} == set(words) else " or ".join(words)
    names: dict[object, str] = {int: "number", float: "number", str: "text", bool: "true or false"}
    return names.get(kind, "table")


def evidence() -> str:
    """fakesysfs/evidence.json, for `fakesysfs list`: kernel -> what is replayed, and how much of it is compared."""
    counts: dict[str, dict[str, int]] = {name: {} for name in PROFILES}
    for folder, sessions in (("recordings", "recorded operations"), ("sessions", "specified operations")):
        for path in find([ROOT / "tests" / folder]):
            recording = recording_of(path)
            what = "recorded paths" if isinstance(recording, Snapshot) else sessions
            kernel = model_target.machine_and_kernel(recording.header["profile"], "default").kernel.name
            counts[kernel][what] = counts[kernel].get(what, 0) + len(list(counted(recording)))
    return json.dumps(counts, indent=2) + "\n"


PROOF_BEGIN, PROOF_END = "<!-- begin: scripts/generate_docs.py -->", "<!-- end -->"
REAL_KERNELS = DOCS / "data" / "real-kernels.json"
"""What was run on which build of a real kernel, and when: `tests/replay --on kernel --note` writes it."""
DIFFERENTIAL = DOCS / "data" / "differential.json"
"""Random operations: `tests/lab differential --note` writes it."""


def proof() -> str:
    """docs/proof.md: what is written there, with the generated part in its middle."""
    page = (DOCS / "proof.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(PROOF_BEGIN)
    _, _, after = rest.partition(PROOF_END)
    return f"{before}{PROOF_BEGIN}\n\n{_proof_tables()}\n{PROOF_END}{after}"


def _proof_tables() -> str:
    counts: dict[str, dict[str, int]] = json.loads(evidence())
    runs: list[dict[str, Any]] = json.loads(REAL_KERNELS.read_text(encoding="utf-8"))
    kinds = ("recorded operations", "recorded paths", "specified operations")
    parts = ["| kernel | " + " | ".join(kinds) + " |", "|---" * 4 + "|"]
    for kernel, its in counts.items():
        parts.append(f"| `{kernel}` | " + " | ".join(f"{its[kind]:,}" if kind in its else "" for kind in kinds) + " |")
    sums = [sum(its.get(kind, 0) for its in counts.values()) for kind in kinds]
    parts.append("| all | " + " | ".join(f"{number:,}" for number in sums) + " |")
    parts += ["", "## Run again on a real kernel\n"]
    parts.append(
        _paragraph(
            "`tests/replay --on kernel` does the recorded operations again on the packaged kernel of a"
            " distribution ([the lab](lab.md)). A row that is empty says that nobody ran it yet."
        )
        + "\n"
    )
    parts += ["| kernel | recordings | build | date | operations agreed |", "|---|---|---|---|---|"]
    for kernel in counts:
        rows = [run for run in runs if run["kernel"] == kernel]
        if kernel not in kernel_target.SERIES:
            parts.append(f"| `{kernel}` | | no distribution packages it | | |")
        elif not rows:
            parts.append(f"| `{kernel}` | | | | |")
        for run in rows:
            agreed = f"{run['reproduced']:,} of {run['counted']:,}"
            parts.append(f"| `{kernel}` | {run['recordings']} | {run['build']} | {run['date']} | {agreed} |")
    parts += ["", "## Random operations on a real kernel\n", *_differential()]
    parts += ["", "## What may differ\n"]
    parts.append("Both sides of each comparison lose this first:\n")
    parts += _normalisations(normalise.NORMALISATIONS)
    parts.append("\nOn a distribution's kernel, whose configuration is not the recorded one, this too:\n")
    parts += _normalisations(normalise.ENVELOPE)
    parts.append("\nThe output of these commands is not compared, their exit status is:\n")
    parts += ["| command | why |", "|---|---|"]
    parts += [f"| `{name}` | {why} |" for name, why in normalise.OUTPUT_NOT_COMPARED.items()]
    parts.append("\nThese paths of snapshots are not compared:\n")
    parts += ["| path | why |", "|---|---|", *(f"| `{path}` | {why} |" for path, why in snapshots.NOT_COMPARED), ""]
    return "\n".join(parts)


_FIGURES = ("sequences", "operations", "agreed", "answers", "differing", "without_answer")


def _differential() -> list[str]:
    runs: list[dict[str, Any]] = json.loads(DIFFERENTIAL.read_text(encoding="utf-8"))
    parts = [
        _paragraph(
            "`tests/lab differential` draws operations at random, and compares the machine after each change"
            " ([the lab](lab.md#the-differential)). All operations of a sequence agreed, or none of it counts as"
            " agreed. What made a sequence differ is corrected since, with a recording of it, or"
            " [what is not real](what-is-not-real.md) has it. Without an answer: the guest died, or"
            " (once) a write did not return, which is a difference since; its sequence counts in no other column."
            " `docs/data/differential.json` has the seeds."
        )
        + "\n",
        "| build | guest | sequences | operations | agreed | answers | differed | without an answer | last run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_guest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        by_guest.setdefault((run["build"], run["guest"]), []).append(run)
        by_guest.setdefault((run["build"], "all"), []).append(run)
    for (build, guest), its in sorted(by_guest.items(), key=lambda item: (item[0][0], item[0][1] == "all", item[0][1])):
        sums = (sum(run[key] for run in its) for key in _FIGURES)
        figures = " | ".join(f"{number:,}" for number in sums)
        parts.append(f"| {build} | {guest} | {figures} | {max(run['date'] for run in its)} |")
    return parts


EXPLORED = DOCS / "data" / "explore-table.json"
"""What was found for each protocol on each kernel: `scripts/explore_table.py` writes it."""
ORDERS = "explore-orders.md"
_SAVED = (
    "How many orders are left when those that differ in steps that commute are explored once, and of how many,"
    " where all could be explored, too:"
)
_EXPLORED_ON = ("7.2", "hotplug-v3-as-posted", "hotplug-v3", "7.3")


def explore() -> str:
    """docs/explore.md: what is written there, with the table of protocols and kernels in it."""
    page = (DOCS / "explore.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(PROOF_BEGIN)
    _, _, after = rest.partition(PROOF_END)
    explored: dict[str, dict[str, dict[str, Any]]] = json.loads(EXPLORED.read_text(encoding="utf-8"))
    rows = ["| protocol | " + " | ".join(f"`{kernel}`" for kernel in _EXPLORED_ON) + " |", "|---" * 5 + "|"]
    for name, cells in explored.items():
        title = f"[{_title_of(name)}](../examples/explore/table/{name}.toml)"
        rows.append(f"| {title} | " + " | ".join(_explored(name, kernel, cells) for kernel in _EXPLORED_ON) + " |")
    rows += ["", _paragraph(_SAVED)]
    rows += ["", "| protocol | " + " | ".join(f"`{kernel}`" for kernel in _EXPLORED_ON) + " |", "|---" * 5 + "|"]
    for name, cells in explored.items():
        saved = (_saved(cells[kernel]) if kernel in cells else "" for kernel in _EXPLORED_ON)
        rows.append(f"| {_row(name)} | " + " | ".join(saved) + " |")
    return f"{before}{PROOF_BEGIN}\n\n" + "\n".join(rows) + f"\n\n{PROOF_END}{after}"


def _title_of(name: str) -> str:
    scenario = tomllib.loads((DOCS.parent / f"examples/explore/table/{name}.toml").read_text(encoding="utf-8"))
    return str(scenario["title"])


def _explored(name: str, kernel: str, cells: dict[str, dict[str, Any]]) -> str:
    cell = cells.get(kernel)
    if cell is None:
        return ""
    counts = f"{cell['failed']:,} of {cell['explored']:,}"
    if cell["failed"]:
        heading = re.sub(r"[^\w -]", "", f"{_row(name)} on {kernel}").replace(" ", "-")
        counts = f"[**{counts}**]({ORDERS}#{heading})"
    reduced = ", reduced" if cell.get("reduction") else ""
    return f"{counts}{reduced}, {_bound_of(cell)}, {max(1, round(cell['seconds'])):,} s"


def _saved(cell: dict[str, Any]) -> str:
    few = cell["reduced"]
    of = "" if cell.get("reduction") else f" of {cell['explored']:,}"
    return f"{few['explored']:,}{of}" + (", cut short" if few["covered"].startswith("A limit") else "")


def _row(name: str) -> str:
    """A row's name, without the number that sorts it."""
    return name.partition("-")[2]


def _bound_of(cell: dict[str, Any]) -> str:
    if cell["complete"]:
        return "complete"
    if cell["covered"].startswith("Explored: all with"):
        return f"≤ {cell['preemptions']} preemption" + "s" * (cell["preemptions"] != 1)
    most = re.search(r"at most (\d+)", cell["covered"])
    return "cut short" if most is None else f"cut short after all with ≤ {most[1]}"


def explore_orders() -> str:
    """docs/explore-orders.md: for each protocol and kernel the shortest order that fails."""
    explored: dict[str, dict[str, dict[str, Any]]] = json.loads(EXPLORED.read_text(encoding="utf-8"))
    parts = [
        "# The shortest orders that fail\n",
        _paragraph(
            "`scripts/generate_docs.py` writes this page from `docs/data/explore-table.json`. Each order belongs to a"
            " cell of [the table](explore.md#which-protocols-are-safe). [How to read a"
            " report](explore.md#how-to-read-a-report) says what the columns are."
        ),
    ]
    for name, cells in explored.items():
        for kernel, cell in cells.items():
            if not cell["failed"]:
                continue
            preemptions = "" if cell["complete"] else f" {cell['covered']}."
            counts = f"{cell['failed']:,} of {cell['explored']:,} orders fail"
            parts += [
                f"\n## {_row(name)} on {kernel}\n",
                _paragraph(f"{counts}: {_title_of(name)}.{preemptions}"),
            ]
            for order in cell["orders"]:
                why = order["why"].replace("--check", "`--check`")
                parts += ["\n" + _paragraph(f"{why}. The shortest: `{order['schedule']}`"), "\n```text"]
                parts += [*(line.removeprefix("  ") for line in order["steps"]), "```"]
    return "\n".join([*parts, ""])


def _normalisations(entries: tuple[normalise.Normalisation, ...]) -> list[str]:
    rows = [f"| {entry.name} | {entry.stream} | {entry.reason} |" for entry in entries]
    return ["| what | where | why |", "|---|---|---|", *rows]


def cli() -> str:
    """docs/cli.md: every command with its arguments, from the parsers that read them."""
    for variable in ("FAKESYSFS_MACHINE", "FAKESYSFS_KERNEL"):
        os.environ.pop(variable, None)  # they change defaults
    parser = commands.make_parser()
    parts = [
        "# Command line\n",
        "`scripts/generate_docs.py` writes this page from the parsers of the commands.",
        "[commands.md](commands.md) has the scripts of a checkout, the environment and the exit statuses.\n",
        "| command | what it does |",
        "|---|---|",
    ]
    (subcommands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001  argparse has no other way to its arguments
    parts += [
        f"| [`fakesysfs {choice.dest}`](#fakesysfs-{choice.dest}) | {_sentence(choice.help or '')} |"
        for choice in subcommands._choices_actions  # noqa: SLF001  the same
    ]
    parts += ["", _options(parser), "", "Each command has `--help`."]
    own_parsers = {"replay": replay_command.make_parser, "record": record.make_parser}
    for name, found in subcommands.choices.items():
        command = own_parsers[name]() if name in own_parsers else found
        parts += ["", f"## fakesysfs {name}", "", _paragraph(_sentence(command.description or "")), ""]
        parts += ["```text", f"fakesysfs {name}{_usage(command)}", "```"]
        if options := _options(command):
            parts += ["", options]
        about, _, example = re.sub(r"\bexample: ", "Example: ", command.epilog or "").partition("Example: ")
        if about.strip():
            parts += ["", _paragraph(about)]
        if example:
            parts += ["", f"Example: `{example}`"]
    return "\n".join([*parts, ""])


def _paragraph(text: str) -> str:
    """Wrapped, but not inside of code."""
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), " ".join(text.split()))
    return textwrap.fill(whole, PROSE_WIDTH, break_on_hyphens=False, break_long_words=False).replace("\0", " ")


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Without --help and the list of commands, positional ones first."""
    actions = [
        action
        for action in parser._actions  # noqa: SLF001  argparse has no other way to them
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)  # noqa: SLF001  the same
        and action.help != argparse.SUPPRESS
    ]
    return sorted(actions, key=lambda action: bool(action.option_strings))


def _usage(parser: argparse.ArgumentParser) -> str:
    """Not argparse's own: its form depends on Python's version and on the terminal's width."""
    text = " [OPTION...]" if any(action.option_strings for action in _arguments(parser)) else ""
    forms = {None: "{}", "?": "[{}]", "*": "[{}...]", "+": "{}...", argparse.REMAINDER: "[-- {}...]"}
    for action in _arguments(parser):
        if not action.option_strings:
            text += " " + forms[action.nargs].format(action.metavar or action.dest.upper())  # type: ignore[index]
    return text


def _options(parser: argparse.ArgumentParser) -> str:
    """A table of the arguments that have something to say."""
    rows = []
    for action in _arguments(parser):
        value = ""
        if action.nargs != 0:
            value = str(
                action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
            )
        names = [f"`{name}{f' {value}' * bool(action.nargs != 0)}`" for name in action.option_strings] or [f"`{value}`"]
        if not action.help:
            continue
        cells = (", ".join(names), action.help % {**vars(action), "prog": parser.prog})
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(["| argument | meaning |", "|---|---|", *rows]) if rows else ""


def _sentence(text: str) -> str:
    """With a full stop and, unless it begins with code, a capital."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


PAGES = {
    "abi.md": abi,
    "cli.md": cli,
    "kernels.md": kernels,
    "machines.md": machines,
    "explore.md": explore,
    ORDERS: explore_orders,
    "proof.md": proof,
    "../fakesysfs/evidence.json": evidence,
}


def main() -> None:
    """Write all pages."""
    DOCS.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
