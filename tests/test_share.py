"""The man page and the completions: up to date, accepted by the programs that read them, and useful in a shell."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fakesysfs.kernel.profile import PROFILES
from fakesysfs.machine import builtin
from fakesysfs.testing import MountedMachine

ROOT = Path(__file__).resolve().parent.parent
SHARE = ROOT / "share"
MAN_PAGE = SHARE / "man/man1/fakesysfs.1"
BASH = SHARE / "bash-completion/completions/fakesysfs"
ZSH = SHARE / "zsh/site-functions/_fakesysfs"
FISH = SHARE / "fish/vendor_completions.d/fakesysfs.fish"
FILES = (MAN_PAGE, BASH, ZSH, FISH)


def _generated() -> Mapping[str, Callable[[], str]]:
    spec = importlib.util.spec_from_file_location("generate_share", ROOT / "scripts/generate_share.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: Mapping[str, Callable[[], str]] = module.FILES_BELOW_SHARE
    return files


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_is_up_to_date(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run scripts/generate_share.py after a change of a command's options."""
    pytest.importorskip("shtab")
    monkeypatch.setenv("FAKESYSFS_KERNEL", "7.2")  # of the user who runs it: not in the file
    assert file.read_text("utf-8") == _generated()[str(file.relative_to(SHARE))]()


def test_all_are_tested() -> None:
    assert sorted(FILES) == sorted(path for path in SHARE.rglob("*") if path.is_file())


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@pytest.mark.tools
def test_man_page_in_man() -> None:
    command = [_need("man"), "--warnings", "-E", "ascii", "-l", str(MAN_PAGE)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C", "MANWIDTH": "80"}
    )
    assert done.stderr == ""
    assert "fakesysfs run [OPTION...] [-- COMMAND...]" in done.stdout
    assert "--machine NAME|FILE" in done.stdout
    assert "example: fakesysfs umount mnt" in done.stdout


@pytest.mark.tools
def test_man_page_in_mandoc() -> None:
    done = subprocess.run([_need("mandoc"), "-T", "lint", MAN_PAGE], capture_output=True, text=True, check=False)
    # no date: the version says enough, and a date would change with each run
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def _bash(words: list[str], cwd: Path) -> list[str]:
    script = f"""
        source {BASH}
        COMP_WORDS=({" ".join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}
        _shtab_fakesysfs fakesysfs "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [_need("bash"), "--norc", "-c", script], capture_output=True, text=True, check=True, cwd=cwd, timeout=60
    )
    # compopt can be called in a completion only
    assert "error" not in done.stderr
    return done.stdout.splitlines()


def _fish(words: list[str], cwd: Path) -> list[str]:
    command = [_need("fish"), "--no-config", "-c", f"source {FISH}; complete -C $argv[1]"]
    line = f"{shlex.join(words[:-1])} {words[-1]}"
    own = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(cwd / ".fish"))
    done = subprocess.run(
        [*command, line], capture_output=True, text=True, check=True, cwd=cwd, timeout=60, env=os.environ | own
    )
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


SHELLS = {"bash": _bash, "fish": _fish}


@pytest.mark.tools
@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").touch()
    (tmp_path / "other").touch()

    def complete(*words: str) -> set[str]:
        return set(SHELLS[shell](["fakesysfs", *words], tmp_path))

    assert complete("") == {
        *("mount", "run", "explore", "map", "watch", "ps", "timeline", "umount", "list", "check", "replay", "record"),
    }
    assert complete("mou") == {"mount"}
    assert complete("mount", "--fore") == {"--foreground"}
    assert complete("mount", "--machine", "") == {*builtin(), "own.toml"}
    assert complete("run", "--udev", "--kernel", "") == set(PROFILES)
    assert complete("replay", "--on", "") == {"model", "mount", "kernel"}
    assert {"none", "distribution", "own.toml", "other"} <= complete("run", "--rules", "")
    assert complete("check", "") == {"own.toml"}
    assert "sh" in complete("run", "--kernel", "7.2", "--", "s")
    assert complete("run", "--", "cat", "oth") == {"other"}


@pytest.mark.mount
@pytest.mark.tools
@pytest.mark.parametrize("shell", SHELLS)
def test_completion_of_mountpoints(shell: str, tmp_path: Path) -> None:
    with MountedMachine(tmp_path / "two words") as machine:
        for words in (["umount"], ["run", "--at"]):
            assert str(machine.path) in SHELLS[shell](["fakesysfs", *words, "/"], Path("/"))
            assert "two words/mnt" in SHELLS[shell](["fakesysfs", *words, ""], tmp_path)
    assert "two words/mnt" not in SHELLS[shell](["fakesysfs", "umount", ""], tmp_path)


class Zsh:
    """zsh on a terminal: its completion runs nowhere else."""

    def __init__(self, cwd: Path) -> None:
        zsh = _need("zsh")
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(cwd)}
            os.execve(zsh, [zsh, "-f", "-i"], environment)  # noqa: S606  no shell around it
        setup = (
            f"PS1=; unset zle_bracketed_paste; fpath=({SHARE}/zsh/site-functions $fpath); autoload -Uz compinit; "
            "compinit -u -D; LISTMAX=1000; bindkey '^I' complete-word; print rea''dy\n"
        )
        self.type(setup, "ready")

    def type(self, text: str, expected: str) -> None:
        """Type, and wait until the terminal shows `expected`."""
        os.write(self._terminal, text.encode())
        end = time.monotonic() + 60
        seen = ""
        while expected not in seen:
            assert select.select([self._terminal], [], [], max(end - time.monotonic(), 0))[0], (expected, seen)
            seen += os.read(self._terminal, 4096).decode(errors="replace")

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.mark.mount
@pytest.mark.tools
def test_completion_in_zsh(tmp_path: Path) -> None:
    (tmp_path / "only.toml").touch()
    with MountedMachine(tmp_path / "two words"):
        zsh = Zsh(tmp_path)
        try:
            clear = "\x15"  # Ctrl-U
            zsh.type("fakesysfs umo\t", "unt ")
            zsh.type(f"{clear}fakesysfs mount --kernel 7\t\t", "7.3")
            zsh.type(f"{clear}fakesysfs run --udev --machine de\t", "fault")
            zsh.type(f"{clear}fakesysfs run --machine on\t", "ly.toml")
            zsh.type(f"{clear}fakesysfs umount tw\t", r"o\ words/mnt")
            zsh.type(f"{clear}fakesysfs run --kernel 7.2 -- cat onl\t", "y.toml")
        finally:
            zsh.end()


@pytest.mark.parametrize("command", ["mount", "run", "explore", "umount", "list", "check", "replay", "record"])
def test_all_options_of_a_command_are_in_the_man_page(command: str) -> None:
    """A command with a parser of its own needs a line in `whole_parser`."""
    usage = subprocess.run(
        [sys.executable, "-m", "fakesysfs", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    section = MAN_PAGE.read_text(encoding="utf-8").partition(f".SS {command}\n")[2].partition("\n.S")[0]
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage.partition("positional")[0].partition("\n\n")[0]))
    assert section
    assert {option for option in options - {"-h"} if option.replace("-", r"\-") not in section} == set()
