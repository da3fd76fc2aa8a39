"""The commands. Each imports what it needs when it runs, so that `--help` and wrong use answer at once."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fakesysfs import __version__
from fakesysfs.explore import arguments as explore_arguments
from fakesysfs.kernfs import names_in

if TYPE_CHECKING:
    from fakesysfs.kernel.profile import Profile
    from fakesysfs.kernfs import Tree
    from fakesysfs.machine import MachineDescription
    from fakesysfs.see.fakes import Fake
    from fakesysfs.trace import Target

DEFAULT_MACHINE = "default"
DEFAULT_KERNEL = "hotplug-v3"

WRONG_USE = 2
INTERRUPTED = 128 + signal.SIGINT


class _WrongUseError(Exception):
    """What was asked for cannot be: exit status 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # the name of a directory need not be text
    if arguments[:1] == ["replay"]:
        from fakesysfs import replay  # noqa: PLC0415

        return replay.main(arguments[1:])
    if arguments[:1] == ["record"]:
        from fakesysfs.replay import record  # noqa: PLC0415

        return record.main(arguments[1:])
    if arguments[:1] in (["run"], ["mount"]) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C during the start ends this process by the signal.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except _WrongUseError as error:
        print(f"fakesysfs: {error}", file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:
        # Whoever read our output has seen enough (`fakesysfs list | head -1`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:  # a full disk behind standard output, a directory that is gone under our feet
        print(f"fakesysfs: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands. `replay` and `record` have their own; share/ is generated from all three."""
    parser = argparse.ArgumentParser(
        prog="fakesysfs",
        description="A Linux machine's memory-hotplug sysfs that can be mounted anywhere.",
        epilog="example: mkdir -p mnt && fakesysfs mount mnt && cat mnt/sys/bus/dax/devices/dax0.0/hotplug",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fakesysfs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], what: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=what,
            description=what,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        return added

    mount = command(
        "mount",
        _mount,
        "mount a fake machine; returns once it answers",
        "fakesysfs mount mnt --machine default --kernel hotplug-v3",
    )
    mount.add_argument("mountpoint", metavar="MNT", help="a directory")
    _add_machine_and_kernel(mount)
    mount.add_argument("--foreground", action="store_true", help="stay in the foreground; Ctrl-C unmounts")
    mount.add_argument("--allow-other", action="store_true", help="let other users in (sudo, containers)")
    _add_trace(mount)

    run = command(
        "run",
        _run,
        "run a command that sees the fake at /sys, /dev and /proc",
        "fakesysfs run --kernel 7.2 -- daxctl list -DR",
    )
    _add_machine_and_kernel(run)
    run.add_argument("--host-network", action="store_true", help="keep the host's network; there are no uevents then")
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--mount", metavar="MNT", dest="mountpoint", help="also show the fake at this directory, outside"
    )
    where.add_argument(
        "--at",
        metavar="MNT|PID",
        nargs="?",
        const="",
        help="use the fake that is mounted there, or that of a run (`fakesysfs ps` lists the numbers), instead of one "
        "of its own; without a value: the only one",
    )
    run.add_argument("--explain", action="store_true", help="say at the end what was refused, and why")
    run.add_argument("--udev", action="store_true", help="with a systemd-udevd of its own, and a private /run")
    run.add_argument(
        "--rules",
        metavar="DIR|FILE",
        action="append",
        help="udev rules, may be repeated; `none`, or `distribution` (the default)",
    )
    _add_trace(run)
    run.add_argument("arguments", metavar="COMMAND", nargs=argparse.REMAINDER, help="the command; default: a shell")

    explore = command(
        "explore",
        _explore,
        "run programs in every order of their steps: is there one in which they break each other?",
        "fakesysfs explore --check ./is-whole.sh -- ./remover.sh ./onliner.sh",
    )
    _add_machine_and_kernel(explore, chooses=False)
    explore_arguments.add_to(explore)
    explore.epilog = f"{explore_arguments.ABOUT}\n{explore.epilog}"

    memory_map = command(
        "map",
        _map,
        "show the memory blocks by node and dax device",
        "fakesysfs map mnt",
    )
    _add_which(memory_map, "; `/` is this machine itself, fake or real")
    memory_map.add_argument("--svg", metavar="PATH", help="write a picture to this file instead")

    watch = command(
        "watch",
        _watch,
        "follow a fake machine: its map, the last operations, uevents and log; q ends it",
        "fakesysfs watch mnt",
    )
    _add_which(watch)

    command("ps", _ps, "list the mounts and runs that are there", "fakesysfs ps")
    timeline = command(
        "timeline",
        _timeline,
        "make a page of a trace: programs, locks, uevents, and the memory map through time",
        "fakesysfs run --trace t.jsonl -- lsmem && fakesysfs timeline t.jsonl -o t.html",
    )
    timeline.add_argument("trace", metavar="TRACE", help="a *.jsonl that `--trace` has written")
    timeline.add_argument(
        "-o", "--output", metavar="PATH", help="the page; default: the trace's name with .html; - is standard output"
    )

    umount = command(
        "umount",
        _umount,
        "take a mount away unless it is in use; one whose server has died in any case",
        "fakesysfs umount mnt",
    )
    umount.add_argument("mountpoint", metavar="MNT", help="where the fake is mounted")

    command("list", _list, "list the built-in machines and the kernels", "fakesysfs list")

    check = command(
        "check", _check, "validate a machine description; exit status 2 on an error", "fakesysfs check machine.toml"
    )
    check.add_argument("file", metavar="FILE", help="a TOML file, or the name of a built-in machine")

    commands.add_parser("replay", help="replay recorded sessions; see `fakesysfs replay --help`", add_help=False)
    commands.add_parser("record", help="record a real kernel; see `fakesysfs record --help`", add_help=False)
    return parser


def _add_which(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "which",
        metavar="MNT|PID",
        nargs="?",
        help=f"a mountpoint, or a number that `fakesysfs ps` lists; default: the only one{more}",
    )


def _add_machine_and_kernel(parser: argparse.ArgumentParser, *, chooses: bool = True) -> None:
    """Unless `chooses`, an option that is not given is None: the command has its own defaults before ours."""
    parser.add_argument(
        "--machine",
        metavar="NAME|FILE",
        default=_default_machine() if chooses else None,
        help=f"a built-in machine (`fakesysfs list`) or a TOML file; default: $FAKESYSFS_MACHINE or {DEFAULT_MACHINE}",
    )
    parser.add_argument(
        "--kernel",
        metavar="PROFILE",
        default=_default_kernel() if chooses else None,
        help=f"how the kernel behaves (`fakesysfs list`); default: $FAKESYSFS_KERNEL or {DEFAULT_KERNEL}",
    )


def _add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace",
        metavar="PATH",
        action="append",
        default=[],
        help="write what happens to this file: *.jsonl (JSON lines, for `fakesysfs timeline`) or *.pftrace (Perfetto); "
        "may be repeated",
    )


def _open_traces(options: argparse.Namespace) -> tuple[Target, ...]:
    """Now, before the server leaves the directory and the user's view of the files."""
    if not options.trace:
        return ()
    from fakesysfs import trace  # noqa: PLC0415

    try:
        return tuple(trace.open_target(file) for file in options.trace)
    except trace.CannotTraceError as error:
        raise _WrongUseError(str(error)) from None


def _default_machine() -> str:
    return os.environ.get("FAKESYSFS_MACHINE") or DEFAULT_MACHINE


def _default_kernel() -> str:
    return os.environ.get("FAKESYSFS_KERNEL") or DEFAULT_KERNEL


def _program() -> str:
    """How this command was called, so that it can be typed again."""
    program = sys.argv[0]
    if os.path.basename(program) != "fakesysfs" or os.sep not in program:  # noqa: PTH119
        return "fakesysfs"
    return min(program, _from_here(program), key=len)


def _load(name: str) -> MachineDescription:
    from fakesysfs import machine  # noqa: PLC0415

    try:
        return machine.load(name)
    except machine.MachineError as error:
        raise _WrongUseError(str(error)) from None


def _profile(name: str) -> Profile:
    from fakesysfs.kernel.profile import UnknownKernelError, find_profile  # noqa: PLC0415

    try:
        return find_profile(name)
    except UnknownKernelError as error:
        raise _WrongUseError(str(error)) from None


def _mount(options: argparse.Namespace) -> int:
    from fakesysfs.fuse import limits, mount  # noqa: PLC0415

    try:
        mount.check_limits()
        return _mount_there(options)
    except mount.MountError as error:
        print(f"fakesysfs: {error}", file=sys.stderr)
        return error.status
    except MemoryError as error:
        print(f"fakesysfs: {limits.reached(error)}", file=sys.stderr)
        return 1


def _mount_there(options: argparse.Namespace) -> int:
    from fakesysfs.fuse import daemon, mount  # noqa: PLC0415

    given: str = options.mountpoint
    point = os.path.abspath(given)  # noqa: PTH100  links stay as the user wrote them
    machine, profile = _load(options.machine), _profile(options.kernel)
    program = mount.as_argument(_program())
    answered = False

    def serve(ready: Callable[[str], None]) -> None:
        mount.import_pyfuse3()
        from fakesysfs.fuse.session import serve  # noqa: PLC0415
        from fakesysfs.fuse.uevent_barrier import RemoteUevents  # noqa: PLC0415
        from fakesysfs.sysroot import Sysroot  # noqa: PLC0415

        mount.check_threads()
        sysroot = Sysroot.boot(machine, profile, uid=os.getuid(), gid=os.getgid())
        if traces:
            from fakesysfs.trace import attach  # noqa: PLC0415  few mounts are traced

            attach(sysroot, traces, options.machine, at_once=False)
        hint = _something_to_try(sysroot.tree, profile)
        uevents = RemoteUevents(sysroot.uevent_readers)
        serve(sysroot, point, allow_other=options.allow_other, ready=lambda: ready(hint), uevents=uevents)

    def say(hint: str) -> None:
        nonlocal answered
        answered = True
        if hides:
            _warn(f"{given}: the directory is not empty; the mount hides what is in it")
        shown = _shown(given)
        argument = mount.as_argument(shown)
        commands = [line.format(argument) for line in hint.splitlines()]
        _print_if_possible(
            f"{shown}: machine {options.machine}, kernel {profile.name}. Try:",
            *(f"  {command}" for command in [*commands, f"{program} umount {argument}"]),
        )

    mount.check(given, program)
    traces = _open_traces(options)
    hides = mount.hides_something(given)
    if not options.foreground:
        say(daemon.in_background(serve, point, [target.descriptor for target in traces]))
        return 0
    daemon.log_to_standard_error()
    serve(say)
    return 0 if answered else INTERRUPTED


def _print_if_possible(*lines: str) -> None:
    """Print hints. The mount stays even where standard output cannot be written."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        # What is left in the buffer must not fail again at the end of this process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            _warn(f"mounted, but standard output cannot be written: {error.strerror}")


def _warn(text: str) -> None:
    """Warn on standard error. The mount stays even where that cannot be written."""
    try:
        print(f"fakesysfs: {text}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _shown(point: str) -> str:
    """The mountpoint as its user would type it."""
    below = _from_here(point)
    return point if below.startswith("..") else below


def _from_here(path: str) -> str:
    try:
        return os.path.relpath(path)
    except FileNotFoundError:  # the working directory is gone
        return path


def _something_to_try(tree: Tree, profile: Profile) -> str:
    """Commands for this tree under this kernel, one a line, with {} for the mountpoint."""
    from fakesysfs.kernel.profile import DAX_KMEM_UNPLUGGED  # noqa: PLC0415

    devices = "/sys/bus/dax/devices"
    for device in sorted(names_in(tree, devices)):
        if profile.attribute in names_in(tree, f"{devices}/{device}"):
            path = f"{devices}/{device}/{profile.attribute}"
            word = next(word for word, state in profile.words_written.items() if state == DAX_KMEM_UNPLUGGED)
            return f"cat {{}}{path}\necho {word} > {{}}{path}\nlsmem --sysroot {{}}"
    return "lsmem --sysroot {}"


def _run(options: argparse.Namespace) -> int:
    from fakesysfs.sandbox import attach, launcher, server  # noqa: PLC0415

    if options.rules is not None and not options.udev:
        raise _WrongUseError("--rules needs --udev: give both")
    if options.udev and options.host_network:
        raise _WrongUseError("--udev needs the private network, where uevents are sent: leave out --host-network")
    if options.trace and options.at is not None:
        raise _WrongUseError("--trace needs a fake of its own, not --at: give --trace to the command that mounts it")
    command: list[str] = options.arguments
    command = command[1:] if command[:1] == ["--"] else command
    at: str | None = options.at
    fake = None if at is None else _named_at(at)
    if fake is not None and not fake.path:
        if options.udev or options.host_network:
            why = "are for a run of its own"
            raise _WrongUseError(f"--udev and --host-network {why}: leave them out to join process {fake.pid}")
        attach.run(command, fake.init, explain=options.explain)
    launcher.run(
        command,
        server.Fake(options.machine, options.kernel, traces=_open_traces(options)),
        network=not options.host_network,
        point=options.mountpoint,
        at=at if fake is None else fake.path,
        rules=(options.rules or []) if options.udev else None,
        explain=options.explain,
    )


def _named_at(at: str) -> Fake | None:
    """The fake that `--at` names by a number, or as the only one; None if it is a mountpoint."""
    from fakesysfs.see import fakes  # noqa: PLC0415

    if at and (not at.isdecimal() or os.path.exists(at)):  # noqa: PTH110
        return None
    try:
        return (fakes.numbered(int(at)) if at else fakes.only()).fake
    except fakes.NotFoundError as error:
        raise _WrongUseError(str(error)) from None


def _explore(options: argparse.Namespace) -> int:
    from fakesysfs.explore import cli  # noqa: PLC0415

    return cli.main(options, machine=_default_machine(), kernel=_default_kernel())


def _map(options: argparse.Namespace) -> int:
    from fakesysfs.see import cli  # noqa: PLC0415

    return cli.show_map(options.which, options.svg)


def _watch(options: argparse.Namespace) -> int:
    from fakesysfs.see import cli  # noqa: PLC0415

    return cli.watch(options.which)


def _ps(_options: argparse.Namespace) -> int:
    from fakesysfs.see import cli  # noqa: PLC0415

    return cli.list_fakes()


def _timeline(options: argparse.Namespace) -> int:
    from fakesysfs.trace import cli  # noqa: PLC0415

    return cli.main(options.trace, options.output)


def _umount(options: argparse.Namespace) -> int:
    from fakesysfs.fuse.mount import MountError, unmount  # noqa: PLC0415

    try:
        unmount(options.mountpoint)
    except MountError as error:
        print(f"fakesysfs: {error}", file=sys.stderr)
        return error.status
    return 0


def _list(_options: argparse.Namespace) -> int:
    from fakesysfs import machine  # noqa: PLC0415
    from fakesysfs.kernel.profile import PROFILES  # noqa: PLC0415

    machines = machine.builtin()
    kernels = {name: f"{profile.title}; {_evidence(name)}" for name, profile in PROFILES.items()}
    width = max(map(len, [*machines, *kernels]))
    for title, entries in (("machines", machines), ("kernels", kernels)):
        print(f"{title}:")
        for name, line in entries.items():
            print(f"  {name:{width}}  {line}")
    return 0


def _evidence(kernel: str) -> str:
    """What a kernel's behaviour is proven by: counted by scripts/generate_docs.py, as the tests are not installed."""
    import json  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    counts: dict[str, dict[str, int]] = json.loads(Path(__file__).with_name("evidence.json").read_text("utf-8"))
    return " and ".join(f"{number:,} {what}" for what, number in counts[kernel].items())


def _check(options: argparse.Namespace) -> int:
    _load(options.file)
    print(f"{options.file}: valid")
    return 0
