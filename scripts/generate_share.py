"""Write share/: the man page, and completions for bash, zsh and fish. The parsers of the commands are the source.

    .venv/bin/python scripts/generate_share.py

A test holds that the files are what this would write. The wheel installs them. shtab writes the completions. The man
page is written here: argparse-manpage leaves out the examples, and prints the usage as this Python's argparse wraps it.
"""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import shtab

from fakesysfs import __version__, cli
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.machine import builtin
from fakesysfs.replay import cli as replay
from fakesysfs.replay import record

SHARE = Path(__file__).resolve().parent.parent / "share"

Completion = Mapping[str, str]
"""What completes a value, by shell."""

_MACHINES = {
    "bash": "_fakesysfs_machine_or_file",
    "zsh": "_fakesysfs_machine_or_file",
    "fish": "(_fakesysfs_machine_or_file)",
}
_KERNELS = {"bash": "_fakesysfs_kernel", "zsh": f"({' '.join(PROFILES)})", "fish": " ".join(PROFILES)}
_MOUNTS = {
    "bash": "_fakesysfs_mounted_directory",
    "zsh": "_fakesysfs_mounted_directory",
    "fish": "(_fakesysfs_mounted_directory)",
}
_RULES = {
    "bash": "_fakesysfs_rules_file",
    "zsh": "_fakesysfs_rules_file",
    "fish": "(echo none; echo distribution; __fish_complete_path (commandline -ct))",
}
_COMMANDS = {"bash": "_fakesysfs_command_or_file", "zsh": "_normal", "fish": "(_fakesysfs_command)"}
_TOML = {
    "bash": "_fakesysfs_toml_file",
    "zsh": "_files -g '*.toml'",
    "fish": "(_fakesysfs_toml_file)",
}

VALUES: Mapping[str, Completion] = {
    "NAME|FILE": _MACHINES,
    "PROFILE": _KERNELS,
    "MNT": shtab.DIRECTORY,
    "FILE": _TOML,
    "DIR|FILE": _RULES,
    "DIR_OR_FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "TRACE": shtab.FILE,
    "COMMAND": _COMMANDS,
}
"""By the name that the help gives the value."""

MOUNTED = {("umount", "mountpoint"), ("run", "at"), ("map", "which"), ("watch", "which")}
"""Values, by command and destination, that are directories where a fake is mounted already."""

# A function with "file" or "dir" in its name returns file names: shtab's script decides by that.
_BASH = r"""
_fakesysfs_machine_or_file() {
  compgen -W "@MACHINES@" -- "$1"
  _fakesysfs_toml_file "$1"
}

_fakesysfs_toml_file() {
  compgen -f -X '!*.toml' -- "$1"
  compgen -d -- "$1"
}

_fakesysfs_kernel() {
  compgen -W "@KERNELS@" -- "$1"
}

_fakesysfs_rules_file() {
  compgen -W "none distribution" -- "$1"
  compgen -f -- "$1"
}

_fakesysfs_command_or_file() {
  compgen -c -- "$1"
  compgen -f -- "$1"
}

# The paths where a fake is mounted, those below the working directory as the user would type them.
_fakesysfs_mounted_directory() {
  local point rest
  while read -r _ _ _ _ point rest; do
    [[ $rest == *" - fuse.fakesysfs "* ]] || continue
    printf -v point %b "$point" # blanks are octal there
    [[ $1 == /* ]] || point=${point#"$PWD/"}
    [[ $point != "$1"* ]] || printf '%s\n' "$point"
  done </proc/self/mountinfo
}
"""

_ZSH = r"""
_fakesysfs_machine_or_file() {
  _alternative 'machines:machine:(@MACHINES@)' 'files:machine file:_files -g "*.toml"'
}

_fakesysfs_rules_file() {
  _alternative 'words:rules:(none distribution)' 'files:rules:_files'
}

_fakesysfs_mounted_directory() {
  local -a fields points
  local line
  while IFS= read -r line; do
    [[ $line == *' - fuse.fakesysfs '* ]] || continue
    fields=(${=line})
    points+=("${${(g:o:)fields[5]}#$PWD/}")
  done </proc/self/mountinfo
  _wanted directories expl 'mounted fake' compadd -a points
}
"""

_FISH = r"""
function _fakesysfs_machine_or_file
  printf '%s\n' @MACHINES@
  _fakesysfs_toml_file
end

# Not __fish_complete_suffix: that has the other files, too.
function _fakesysfs_toml_file
  __fish_complete_path (commandline -ct) | string match -r '^.*(?:\.toml|/)(?:\t.*)?$'
end

# As fish completes the command line behind the dashes.
function _fakesysfs_command
  set -l words (commandline -opc)
  if set -l dashes (contains -i -- -- $words)
    complete -C (string join ' ' -- (string escape -- $words[(math $dashes + 1)..]) (commandline -ct))
  else
    __fish_complete_command
  end
end

function _fakesysfs_mounted_directory
  while read -l line
    string match -q '* - fuse.fakesysfs *' -- $line; or continue
    set -l fields (string split ' ' -- $line)
    printf '%b\n' $fields[5] | string replace -- "$PWD/" ''
  end </proc/self/mountinfo
end
"""

ENVIRONMENT = (
    ("FAKESYSFS_MACHINE", "The default of `--machine`."),
    ("FAKESYSFS_KERNEL", "The default of `--kernel`."),
    ("FAKESYSFS_CONTROL", "`fakesysfs run` sets it for the command: the directory control/ of the fake."),
)
EXIT_STATUS = (
    ("0", "Success."),
    ("1", "Not possible here (no FUSE, the mount is in use). `replay`: an operation was not reproduced."),
    ("2", "Wrong usage, unknown machine or kernel, error in a machine file."),
    ("130", "Ended by Ctrl-C."),
    ("other", "`fakesysfs run` ends with the status of its command."),
)
FILES = (
    ("${XDG_STATE_HOME:-~/.local/state}/fakesysfs", "What the servers of `fakesysfs mount` log."),
    ("${XDG_CACHE_HOME:-~/.cache}/fakesysfs", "The versions of daxctl that replays use, and what the lab fetched."),
)


def whole_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with those of `replay` and `record`.

    The defaults in its help are those of an environment without our variables.
    """
    for name in ("FAKESYSFS_MACHINE", "FAKESYSFS_KERNEL"):
        os.environ.pop(name, None)
    parser = cli.make_parser()
    commands_of(parser)["replay"] = replay.make_parser()
    commands_of(parser)["record"] = record.make_parser()
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser, by name."""
    return _subparsers(parser).choices


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction:
    actions = parser._actions  # noqa: SLF001  argparse has no other way
    return next(action for action in actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001


# Completion -------------------------------------------------------------------------------------------------------


def completion(shell: str) -> str:
    """The completion of a shell: bash, zsh or fish."""
    parser = whole_parser()
    lines = {action.dest: action.help for action in _subparsers(parser)._choices_actions}  # noqa: SLF001  no other way
    for name, command in commands_of(parser).items():
        command.description = lines[name]
        for action in _arguments(command):
            values = _MOUNTS if (name, action.dest) in MOUNTED else VALUES.get(str(action.metavar))
            if values is not None:
                action.complete = dict(values)
    preamble = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    preamble = preamble.replace("@MACHINES@", " ".join(builtin())).replace("@KERNELS@", " ".join(PROFILES))
    return shtab.complete(parser, shell, preamble={shell: preamble}).rstrip("\n") + "\n"


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]  # noqa: SLF001


_WIDTH = 78


# The man page -----------------------------------------------------------------------------------------------------


def man_page() -> str:
    """fakesysfs(1)."""
    parser = whole_parser()
    commands = commands_of(parser)
    lines = [
        r".\" Written by scripts/generate_share.py.",
        f'.TH FAKESYSFS 1 "" "fakesysfs {__version__}" "User Commands"',
        ".ad l",
        ".SH NAME",
        r"fakesysfs \- mount a machine's memory\-hotplug sysfs anywhere",
        ".SH SYNOPSIS",
    ]
    for number, (name, command) in enumerate(commands.items()):
        lines += [".br"] * bool(number) + [_synopsis(name, command)]
    lines += [".SH DESCRIPTION", *_text(parser.description), ".PP", *_text(parser.epilog)]
    lines.append(".SH OPTIONS")
    for action in parser._actions:  # noqa: SLF001  argparse has no other way
        if action.option_strings:
            lines += [".TP", _term(action), *_text(_help(parser, action))]
    lines.append(".SH COMMANDS")
    for name, command in commands.items():
        lines += [f".SS {_escaped(name)}", *_text(command.description)]
        for action in _arguments(command):
            lines += [".TP", _term(action), *_text(_help(command, action))]
        lines += [".PP", *_text(command.epilog)]
    for title, rows in (("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXIT_STATUS), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for term, what in rows:
            lines += [".TP", rf"\fB{_escaped(term)}\fR", *_text(what)]
    lines += [".SH SEE ALSO", r"\fBdaxctl\fR(1), \fBlsmem\fR(1), \fBnumactl\fR(8), \fBudev\fR(7)"]
    return "\n".join(lines) + "\n"


def _synopsis(name: str, parser: argparse.ArgumentParser) -> str:
    words = [rf"\fBfakesysfs {_escaped(name)}\fR"]
    arguments = _arguments(parser)
    if any(action.option_strings for action in arguments):
        words.append(r"[\fIOPTION\fR...]")
    for action in arguments:
        if action.option_strings:
            continue
        value = rf"\fI{_escaped(str(action.metavar))}\fR"
        if action.nargs == argparse.REMAINDER:
            words.append(rf"[\-\- {value}...]")
        else:
            words.append(f"[{value}...]" if action.nargs == "*" else value)
    return " ".join(words)


def _term(action: argparse.Action) -> str:
    """An option or argument as its help's first line has it."""
    value = str(action.metavar) if action.metavar else "|".join(action.choices or ())
    value = rf"\fI{_escaped(value)}\fR"
    if not action.option_strings:
        return value
    takes_value = action.nargs != 0
    return ", ".join(rf"\fB{_escaped(name)}\fR" for name in action.option_strings) + f" {value}" * takes_value


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _text(text: str | None) -> Iterator[str]:
    """A paragraph. What is in backquotes is bold, and so is an example."""
    words = " ".join((text or "").split())
    before, example, command = words.partition("xample: ")
    if example and "`" not in command:
        words = f"{before}{example}`{command}`"
    text = re.sub("`(.*?)`", r"\\fB\1\\fR", _escaped(words))
    for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield re.sub("^(?=[.'])", r"\\&", line)  # a dot or an apostrophe there makes it a request


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace("~", r"\(ti")


FILES_BELOW_SHARE = {
    "man/man1/fakesysfs.1": man_page,
    "bash-completion/completions/fakesysfs": lambda: completion("bash"),
    "zsh/site-functions/_fakesysfs": lambda: completion("zsh"),
    "fish/vendor_completions.d/fakesysfs.fish": lambda: completion("fish"),
}
"""Each file, below share/, with what writes it."""

if __name__ == "__main__":
    for name, write in FILES_BELOW_SHARE.items():
        path = SHARE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write(), encoding="utf-8")
