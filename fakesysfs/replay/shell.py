"""The little shell in which recorded commands run on the model.

It knows what the recordings use of a shell's language: lists with `;`, `&&`, `||`, pipes, `>` and `2>`, quotes,
braces, patterns of file names, `$?`, one `for` around all. Its commands are those that only read and write files
(`commands`), and modprobe and rmmod. Everything else is a tool that needs a mount: the rest of the list is still done,
because its effects are needed, and then NotSupportedError says so.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fakesysfs.ops.errors import KernelError
from fakesysfs.replay.bash import SELFTESTS
from fakesysfs.replay.commands import COMMANDS, Failure, Streams
from fakesysfs.replay.target import BlockedError, NotRunError, NotSupportedError, ShellResult, errno_name

if TYPE_CHECKING:
    from fakesysfs.replay.model_target import ModelTarget
    from fakesysfs.testing.filesystem import FileSystem

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
      | (?P<redirect>2>&1|2>>?|>>?|<)
      | (?P<operator>&&|\|\||[;|\n])
      | (?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|\$\?|[^\s;|&<>'"\\`$()])+)""",
    re.VERBOSE,
)
_PIECE = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)|(\$\?)|([^'"\\$]+)""")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_BRACES = re.compile(r"\{([^{},]*(?:,[^{},]*)+)\}")
_LOOP = re.compile(r"for (\w+) in ([^;]+); do (.*?);? done")
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_NOT_FOUND = 127
_TIMED_OUT = 124


class Word(NamedTuple):
    """One word: its text, and the same with what was quoted made safe from patterns."""

    text: str
    pattern: str
    has_status: bool


@dataclass(slots=True)
class Command:
    """One simple command of a pipeline."""

    words: list[Word] = field(default_factory=list)
    output: Word | None = None
    error: str | None = None


class Shell:
    """One shell on a model target. `files` decides who it runs as."""

    def __init__(self, target: ModelTarget, files: FileSystem | None = None, name: str = "bash") -> None:
        self.target = target
        self.files = files or target.files
        self.name = name
        self.status = 0
        self.limit: float | None = None
        self.unsupported: list[str] = []

    def run(self, text: str) -> ShellResult:
        """Run a command line. Raises NotSupportedError, NotRunError."""
        out, err = self.execute(text)
        if self.unsupported:
            raise NotSupportedError("tool needs a mount")
        return ShellResult(self.status, out, err)

    def execute(self, text: str) -> tuple[str, str]:
        """Run a command line; its output and errors. `status` and `unsupported` say the rest."""
        loop = _LOOP.fullmatch(text.strip())
        if loop is not None:
            return self._loop(*loop.groups())
        out = err = ""
        go_on = True
        for joint, pipeline in command_lines(text):
            go_on = {"&&": self.status == 0, "||": self.status != 0}.get(joint, True)
            if go_on:
                piped_out, piped_err = self._pipeline(pipeline)
                out += piped_out
                err += piped_err
        return out, err

    def _loop(self, name: str, words: str, body: str) -> tuple[str, str]:
        """`for NAME in WORDS; do BODY; done`. Values are paths: they need no quoting."""
        out = err = ""
        for value in [text for word in words.split() for text in self._expand(_word(word))]:
            again = body.replace(f"${name}", value)
            again = _SUBSTITUTION.sub(lambda match: " ".join(self.execute(match[1])[0].split()), again)
            more_out, more_err = self.execute(again)
            out += more_out
            err += more_err
        return out, err

    def _pipeline(self, commands: list[Command]) -> tuple[str, str]:
        text: str | None = None
        errors = ""
        for command in commands:
            streams = Streams(text)
            self.status = self._simple(command, streams)
            errors += "" if command.error else streams.err
            text = streams.out
            if command.output is not None:
                errors += self._redirect(command.output, text)
                text = ""
        return text or "", errors

    def _redirect(self, word: Word, text: str) -> str:
        path = self._expand(word)[0]
        if path == "/dev/null":
            return ""
        try:
            opened = self.files.open(path, 0o1)
        except KernelError as error:
            self.status = 2 if self.name == "sh" else 1
            verb = "1: cannot create " if self.name == "sh" else "line 1: "
            return f"{self.name}: {verb}{path}: {strerror(error)}\n"
        try:
            self.target.run(self.files.write(opened, text.encode()), f"echo > {path}", limit=self.limit)
        except KernelError as error:
            self.status = 1
            return f"{self.name}: line 1: echo: write error: {strerror(error)}\n"
        except BlockedError:
            if self.limit is None:
                raise
            self.status = _TIMED_OUT
        return ""

    def _simple(self, command: Command, streams: Streams) -> int:
        words = [text for word in command.words for text in self._expand(word)]
        while words and _ASSIGNMENT.match(words[0]):
            words.pop(0)
        if not words:
            return 0
        name, arguments = words[0], words[1:]
        if name.endswith(SELFTESTS):
            raise NotRunError("selftest absent", rest=True)
        special = self._specials().get(name)
        try:
            if special is not None:
                return special(arguments, streams)
            if name in COMMANDS:
                return COMMANDS[name](self, arguments, streams)
        except Failure as failure:
            streams.err += f"{name}: {failure.text}\n"
            return failure.status
        except KernelError as error:
            streams.err += f"{name}: {strerror(error)}\n"
            return 1
        self.unsupported.append(name)
        return _NOT_FOUND

    # Words ---------------------------------------------------------------------------------------------------------

    def _expand(self, word: Word) -> list[str]:
        if word.has_status:
            return [word.text.replace("\0status", str(self.status))]
        texts = []
        for pattern in _expand_braces(word.pattern):
            found = self.glob(pattern) if re.search(r"(?<!\\)[*?]", pattern) else []
            texts += found or [re.sub(r"\\(.)", r"\1", pattern)]
        return texts

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, sorted."""
        paths = [""]
        for part in pattern.strip("/").split("/"):
            matched = []
            for path in paths:
                if re.search(r"(?<!\\)[*?]", part):
                    try:
                        names = self.files.listdir(path or "/")
                    except KernelError:
                        continue
                    matched += [f"{path}/{name}" for name in sorted(names) if fnmatch.fnmatchcase(name, part)]
                else:
                    try:
                        self.files.lstat(f"{path}/{part}")
                    except KernelError:
                        continue
                    matched.append(f"{path}/{part}")
            paths = matched
        return paths

    # Commands that change the machine, or run others ---------------------------------------------------------------

    def _specials(self) -> dict[str, Callable[[list[str], Streams], int]]:
        return {
            "modprobe": self._modprobe,
            "rmmod": self._rmmod,
            "ndctl": self._ndctl,
            "dmesg": self._dmesg,
            "lsmod": self._lsmod,
            "numastat": self._numastat,
            "setpriv": self._setpriv,
            "su": self._su,
            "sh": self._sh,
            "timeout": self._timeout,
            "time": self._time,
            "xargs": self._xargs,
        }

    def _modprobe(self, arguments: list[str], streams: Streams) -> int:
        words = [argument for argument in arguments if not argument.startswith("-")]
        if "--remove" in arguments or any(re.match(r"-\w*r", argument) for argument in arguments):
            loaded = self.target.sysroot.kernel.modules.loaded
            return max((self._rmmod([word], streams) for word in words if word.replace("-", "_") in loaded), default=0)
        module = words[0].replace("-", "_")
        parameters = {
            key: value if equals else None for key, equals, value in (word.partition("=") for word in words[1:])
        }
        try:
            self.target.run(self.target.sysroot.kernel.modprobe(module, parameters), f"modprobe {module}")
        except KernelError as error:
            streams.err += f"modprobe: ERROR: could not insert '{module}': {strerror(error)}\n"
            return 1
        return 0

    def _rmmod(self, arguments: list[str], streams: Streams) -> int:
        module = arguments[0].replace("-", "_")
        try:
            self.target.run(self.target.sysroot.kernel.rmmod(module), f"rmmod {module}")
        except KernelError as error:
            streams.err += f"rmmod: ERROR: could not remove '{module}': {strerror(error)}\n"
            return 1
        return 0

    def _ndctl(self, arguments: list[str], streams: Streams) -> int:
        """Making a devdax namespace is a machine event (FORMAT.md on 7.2/09); other output is not compared."""
        del streams
        if arguments[:1] == ["create-namespace"] and "devdax" in arguments:
            self.target.fixture("pmem-devdax", None)
        return 0

    def _dmesg(self, arguments: list[str], streams: Streams) -> int:
        del arguments
        records = self.target.sysroot.kernel.printk.since(0)
        streams.out += "".join(f"[{record.seconds:12.6f}] {record.text}\n" for record in records)
        return 0

    def _lsmod(self, arguments: list[str], streams: Streams) -> int:
        del arguments
        streams.out += "Module                  Size  Used by\n"
        streams.out += "".join(f"{name:<24}0  0\n" for name in self.target.sysroot.kernel.modules.loaded)
        return 0

    def _numastat(self, arguments: list[str], streams: Streams) -> int:
        """It shows processes, of which there are none; its output is not compared."""
        del arguments, streams
        return 0

    def _nested(self, shell: Shell, text: str, streams: Streams) -> int:
        out, err = shell.execute(text)
        streams.out += out
        streams.err += err
        self.unsupported += shell.unsupported
        return shell.status

    def _setpriv(self, arguments: list[str], streams: Streams) -> int:
        uid = int(arguments[arguments.index("--reuid") + 1])
        text = arguments[arguments.index("-c") + 1]
        return self._nested(Shell(self.target, self.files.as_user(uid), "sh"), text, streams)

    def _su(self, arguments: list[str], streams: Streams) -> int:
        nobody = 65534
        text = arguments[arguments.index("-c") + 1]
        return self._nested(Shell(self.target, self.files.as_user(nobody), "sh"), text, streams)

    def _sh(self, arguments: list[str], streams: Streams) -> int:
        shell = Shell(self.target, self.files, "sh")
        shell.limit = self.limit
        return self._nested(shell, arguments[arguments.index("-c") + 1], streams)

    def _timeout(self, arguments: list[str], streams: Streams) -> int:
        self.limit = float(arguments[0])
        try:
            return self._simple(
                Command([Word(text, _quoted(text), has_status=False) for text in arguments[1:]]), streams
            )
        finally:
            self.limit = None

    def _time(self, arguments: list[str], streams: Streams) -> int:
        return self._simple(Command([Word(text, _quoted(text), has_status=False) for text in arguments]), streams)

    def _xargs(self, arguments: list[str], streams: Streams) -> int:
        words = (streams.stdin or "").split()
        if arguments[:1] == ["-r"]:
            arguments = arguments[1:]
            if not words:
                return 0
        texts = [*arguments, *words]
        return self._simple(Command([Word(text, _quoted(text), has_status=False) for text in texts]), streams)


def strerror(error: KernelError) -> str:
    """The text of an errno, as commands print it."""
    import os  # noqa: PLC0415  one use

    return os.strerror(error.errno) if error.errno < 512 else errno_name(error.errno)  # noqa: PLR2004  the kernel's own


def command_lines(text: str) -> list[tuple[str, list[Command]]]:
    """The pipelines of a command line, each with the operator before it.

    Raises NotSupportedError for more of the language.
    """
    pipelines: list[tuple[str, list[Command]]] = [("", [Command()])]
    redirect: str | None = None
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or token.group("word") in {"for", "if", "while"}:
            raise NotSupportedError("shell language")
        position = token.end()
        command = pipelines[-1][1][-1]
        if token["redirect"]:
            redirect = token["redirect"]
        elif token["word"]:
            word = _word(token["word"])
            if redirect is None:
                command.words.append(word)
            elif redirect.startswith("2"):
                command.error = word.text
            elif redirect == "<":
                raise NotSupportedError("shell language")
            else:
                command.output = word
            redirect = None
        elif token["operator"] == "|":
            pipelines[-1][1].append(Command())
        elif token["operator"]:
            pipelines.append((token["operator"], [Command()]))
    return [(joint, commands) for joint, commands in pipelines if any(command.words for command in commands)]


def _word(text: str) -> Word:
    plain = pattern = ""
    for single, double, escaped, status, bare in _PIECE.findall(text):
        if status:
            plain += "\0status"
        elif bare:
            plain += bare
            pattern += bare
        else:
            literal = single or re.sub(r'\\([$`"\\])', r"\1", double) or escaped
            plain += literal
            pattern += _quoted(literal)
    return Word(plain, pattern, has_status="\0status" in plain)


def _quoted(text: str) -> str:
    return re.sub(r"([\\*?\[{},])", r"\\\1", text)


def _expand_braces(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if found is None or pattern[: found.start()].endswith("\\"):
        return [pattern]
    texts = []
    for choice in found[1].split(","):
        texts += _expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])
    return texts
