"""The commands of the little shell: of each, the options that recordings use, and GNU's output byte for byte."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fakesysfs.ops.errors import KernelError

if TYPE_CHECKING:
    from fakesysfs.kernfs import Stat
    from fakesysfs.replay.shell import Shell
    from fakesysfs.testing.filesystem import FileSystem

_READ_SIZE = 65536
_HEAD_LINES = 10


class Failure(Exception):  # noqa: N818  not an error of ours: the command fails
    """A command ends with an error message."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


@dataclass(slots=True)
class Streams:
    """Standard input (None: nothing was piped in), output and errors of a command."""

    stdin: str | None
    out: str = ""
    err: str = ""


def _strerror(error: KernelError) -> str:
    import os  # noqa: PLC0415  one use

    return os.strerror(error.errno)


def _slurp(shell: Shell, path: str) -> str:
    opened = shell.files.open(path, 0)
    parts = []
    while part := shell.target.run(shell.files.read(opened, _READ_SIZE), f"read {path}"):
        parts.append(part)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def _options(arguments: list[str], with_value: str = "") -> tuple[dict[str, str], list[str]]:
    """Short options, those in `with_value` with the word or the rest behind them, and the operands."""
    options: dict[str, str] = {}
    operands: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in with_value:
                options[letter] = letters or words.pop(0)
                letters = ""
            else:
                options[letter] = ""
    return options, operands


def _echo(shell: Shell, arguments: list[str], streams: Streams) -> int:
    del shell
    streams.out += " ".join(arguments) + "\n"
    return 0


def _visible(text: str) -> str:
    """As `cat -v`."""
    shown = ""
    for byte in text.encode("utf-8", "surrogateescape"):
        low = byte & 0x7F
        prefix = "M-" if byte > 0x7F else ""  # noqa: PLR2004  ASCII ends there
        if low == 0x7F:  # noqa: PLR2004  DEL
            shown += prefix + "^?"
        elif low < 0x20 and byte not in b"\t\n":  # noqa: PLR2004  control characters
            shown += f"{prefix}^{chr(low + 64)}"
        else:
            shown += prefix + chr(low)
    return shown


def _cat(shell: Shell, arguments: list[str], streams: Streams) -> int:
    options, paths = _options(arguments)
    texts: list[str] = [] if paths else [streams.stdin or ""]
    status = 0
    for path in paths:
        try:
            texts.append(_slurp(shell, path))
        except KernelError as error:
            streams.err += f"cat: {_shell_quoted(path)}: {_strerror(error)}\n"
            status = 1
    text = "".join(texts)
    streams.out += _visible(text) if "v" in options else text
    return status


def _shell_quoted(path: str) -> str:
    return f"'{path}'" if re.search(r"[*?\[\s']", path) else path


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _count(arguments: list[str]) -> tuple[int, list[str]]:
    """N of `-N` or `-n N`, and the other arguments."""
    count, rest = _HEAD_LINES, []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if re.fullmatch(r"-\d+", word):
            count = int(word[1:])
        elif word == "-n":
            count = int(words.pop(0))
        else:
            rest.append(word)
    return count, rest


def _ends(name: str, cut: Callable[[list[str], int], list[str]]) -> Callable[[Shell, list[str], Streams], int]:
    def command(shell: Shell, arguments: list[str], streams: Streams) -> int:
        count, paths = _count(arguments)
        if not paths:
            streams.out += "".join(cut(_lines(streams.stdin or ""), count))
            return 0
        status, first = 0, True
        for path in paths:
            try:
                text = _slurp(shell, path)
            except KernelError as error:
                streams.err += f"{name}: cannot open '{path}' for reading: {_strerror(error)}\n"
                status = 1
                continue
            if len(paths) > 1:
                streams.out += ("" if first else "\n") + f"==> {path} <==\n"
            first = False
            streams.out += "".join(cut(_lines(text), count))
        return status

    return command


def _files_below(files: FileSystem, path: str) -> list[str]:
    """All paths at and below, each directory in readdir's order; links are not followed."""
    found = [path]
    if stat.S_ISDIR(files.lstat(path).mode):
        for name in files.listdir(path):
            found += _files_below(files, f"{path.rstrip('/')}/{name}")
    return found


def _grep(shell: Shell, arguments: list[str], streams: Streams) -> int:
    options, operands = _options(arguments, "A")
    pattern = re.compile(operands[0], re.IGNORECASE if "i" in options else 0)
    paths = operands[1:]
    if "r" in options:
        paths = [
            path
            for top in paths
            for path in _files_below(shell.files, top.rstrip("/"))
            if stat.S_ISREG(shell.files.lstat(path).mode)
        ]
    named = ("H" in options or "r" in options or len(paths) > 1) and "h" not in options
    after = int(options.get("A", "0"))
    texts = [(path, None) for path in paths] if paths else [("(standard input)", streams.stdin or "")]
    any_match, status = False, 0
    for path, given in texts:
        try:
            text = _slurp(shell, path) if given is None else given
        except KernelError as error:
            streams.err += f"grep: {path}: {_strerror(error)}\n"
            status = 2
            continue
        matches, tail = 0, 0
        for line in text.splitlines():
            hit = bool(pattern.search(line)) is not ("v" in options)
            matches += hit
            tail = after + 1 if hit else tail - 1
            if tail > 0 and "c" not in options:
                streams.out += (f"{path}{':' if hit else '-'}" if named else "") + line + "\n"
        any_match |= bool(matches)
        if "c" in options:
            streams.out += (f"{path}:" if named else "") + f"{matches}\n"
    return status or (0 if any_match else 1)


def _wc(shell: Shell, arguments: list[str], streams: Streams) -> int:
    options, paths = _options(arguments)
    if list(options) != ["l"] or len(paths) > 1:
        raise Failure("only wc -l of one file is known here")
    text = _slurp(shell, paths[0]) if paths else streams.stdin or ""
    streams.out += f"{text.count(chr(10))}{' ' + paths[0] if paths else ''}\n"
    return 0


def _sort(shell: Shell, arguments: list[str], streams: Streams) -> int:
    del shell, arguments
    streams.out += "".join(sorted(_lines(streams.stdin or "")))
    return 0


def _find(shell: Shell, arguments: list[str], streams: Streams) -> int:
    tops = [argument for argument in arguments if argument.startswith("/")]
    only_files = "-type" in arguments and arguments[arguments.index("-type") + 1] == "f"
    status = 0
    for top in tops:
        try:
            paths = _files_below(shell.files, top)
        except KernelError as error:
            streams.err += f"find: ‘{top}’: {_strerror(error)}\n"  # noqa: RUF001  GNU's quotes in a UTF-8 locale
            status = 1
            continue
        for path in paths:
            if not only_files or stat.S_ISREG(shell.files.lstat(path).mode):
                streams.out += path + "\n"
    return status


_KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFCHR: "character special file"}


def _stat(shell: Shell, arguments: list[str], streams: Streams) -> int:
    options, paths = _options(arguments, "c")
    status = 0
    for path in paths:
        try:
            found = shell.files.lstat(path)
        except KernelError as error:
            streams.err += f"stat: cannot statx '{path}': {_strerror(error)}\n"
            status = 1
            continue
        kind = "regular file" if found.size else "regular empty file"
        fields = {
            "a": f"{stat.S_IMODE(found.mode):o}",
            "A": stat.filemode(found.mode),
            "F": _KINDS.get(stat.S_IFMT(found.mode), kind),
            "s": str(found.size),
            "u": str(found.uid),
            "g": str(found.gid),
            "h": str(found.nlink),
            "n": path,
        }
        streams.out += re.sub(r"%(\w)", lambda match: fields[match[1]], options["c"]) + "\n"  # noqa: B023  used at once
    return status


# ls ---------------------------------------------------------------------------------------------------------------


def _ls(shell: Shell, arguments: list[str], streams: Streams) -> int:
    options, paths = _options(arguments)
    if set(options) - set("laR"):
        raise Failure(f"options {''.join(options)} are not known here")
    files: list[str] = []
    directories: list[str] = []
    status = 0
    for path in sorted(paths):
        try:
            # ls -l does not follow a link that is an operand without a slash behind it
            found = shell.files.lstat(path) if "l" in options and not path.endswith("/") else shell.files.stat(path)
        except KernelError as error:
            streams.err += f"ls: cannot access '{path}': {_strerror(error)}\n"
            status = 2
            continue
        (directories if stat.S_ISDIR(found.mode) else files).append(path)
    shown = []
    if files:
        shown.append(_listing(shell.files, "", files, options))
    titled = len(paths) > 1 or "R" in options
    for path in directories:
        shown += _directory(shell.files, path, options, titled=titled)
    streams.out += "\n".join(shown)
    return status


def _directory(files: FileSystem, path: str, options: dict[str, str], *, titled: bool) -> list[str]:
    names = sorted(files.listdir(path))
    names = [".", "..", *names] if "a" in options else [name for name in names if not name.startswith(".")]
    total = "total 0\n" if "l" in options else ""
    base = path.rstrip("/") + "/"
    shown = [(f"{path}:\n" if titled else "") + total + _listing(files, base, names, options)]
    if "R" in options:
        for name in names:
            if name not in {".", ".."} and stat.S_ISDIR(files.lstat(base + name).mode):
                shown += _directory(files, base + name, options, titled=True)
    return shown


def _listing(files: FileSystem, base: str, names: list[str], options: dict[str, str]) -> str:
    if "l" not in options:
        return "".join(f"{name}\n" for name in names)
    found = [(name, files.lstat(base + name)) for name in names]
    links = max((len(str(status.nlink)) for _, status in found), default=0)
    sizes = max((len(str(status.size)) for _, status in found), default=0)
    return "".join(_long(files, base, name, status, links, sizes) for name, status in found)


def _long(files: FileSystem, base: str, name: str, status: Stat, links: int, sizes: int) -> str:
    arrow = f" -> {files.readlink(base + name)}" if stat.S_ISLNK(status.mode) else ""
    mode = stat.filemode(status.mode)
    return f"{mode} {status.nlink:>{links}} root root {status.size:>{sizes}} Jan  1 00:00 {name}{arrow}\n"


# Changes that are refused, or have no effect ----------------------------------------------------------------------


def _truncate(shell: Shell, arguments: list[str], streams: Streams) -> int:
    options, paths = _options(arguments, "s")
    del streams
    for path in paths:
        shell.files.truncate(path, int(options["s"]))
    return 0


def _chmod(shell: Shell, arguments: list[str], streams: Streams) -> int:
    del streams
    for path in arguments[1:]:
        shell.files.chmod(path, int(arguments[0], 8))
    return 0


def _refused(message: str, change: Callable[[FileSystem, str], None]) -> Callable[[Shell, list[str], Streams], int]:
    def command(shell: Shell, arguments: list[str], streams: Streams) -> int:
        for path in arguments:
            try:
                change(shell.files, path)
            except KernelError as error:
                streams.err += message.format(path=path, why=_strerror(error))
        return 1

    return command


def _make_directory(files: FileSystem, path: str) -> None:
    files.make_name(path)


def _remove(files: FileSystem, path: str) -> None:
    files.unlink(path)


def _touch(shell: Shell, arguments: list[str], streams: Streams) -> int:
    status = 0
    for path in arguments:
        try:
            shell.files.open(path, 0o101)
        except KernelError as error:
            streams.err += f"touch: cannot touch '{path}': {_strerror(error)}\n"
            status = 1
    return status


def _test(shell: Shell, arguments: list[str], streams: Streams) -> int:
    """`[ -d PATH ]`."""
    del streams
    if len(arguments) != 3 or arguments[0] != "-d":  # noqa: PLR2004  -d, the path, the bracket
        raise Failure("only [ -d PATH ] is known here", 2)
    try:
        return 0 if stat.S_ISDIR(shell.files.stat(arguments[1]).mode) else 1
    except KernelError:
        return 1


COMMANDS: dict[str, Callable[[Shell, list[str], Streams], int]] = {
    "[": _test,
    "cat": _cat,
    "chmod": _chmod,
    "echo": _echo,
    "find": _find,
    "grep": _grep,
    "head": _ends("head", lambda lines, count: lines[:count]),
    "ls": _ls,
    "mkdir": _refused("mkdir: cannot create directory ‘{path}’: {why}\n", _make_directory),  # noqa: RUF001  GNU's quotes
    "rm": _refused("rm: cannot remove '{path}': {why}\n", _remove),
    "sort": _sort,
    "stat": _stat,
    "tail": _ends("tail", lambda lines, count: lines[-count:]),
    "touch": _touch,
    "truncate": _truncate,
    "wc": _wc,
}
"""Name -> what it does with (shell, arguments, streams); returns the exit status."""
