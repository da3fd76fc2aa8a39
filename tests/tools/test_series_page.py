"""docs/series.md, "The ten bugs of the posted code": every line does on every kernel what the page says.

The page is the source of every expectation here; what each bug is stands in docs/KERNEL.md, section 7.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass

import pytest

from tests.tools.conftest import PATIENCE_SECONDS, ROOT, Runner, need

KERNELS = ("hotplug-v3-as-posted", "hotplug-v3", "7.3")
SECTION = "## The ten bugs of the posted code\n"
COMMAND = ["fakesysfs", "run"]


@dataclass(frozen=True)
class Bug:
    number: int
    line: str
    outputs: dict[str, str]
    """By kernel."""


def _section() -> str:
    page = (ROOT / "docs" / "series.md").read_text(encoding="utf-8")
    return re.split(r"^## ", page.partition(SECTION)[2], maxsplit=1, flags=re.MULTILINE)[0]


def _bugs() -> list[Bug]:
    found = []
    for part in re.split(r"^### ", _section(), flags=re.MULTILINE)[1:]:
        number, _, text = part.partition(". ")
        lines = re.findall(r"^```sh\n(.*)\n```$", text, re.MULTILINE)
        assert len(lines) == 1, f"bug {number} has one line"
        outputs = re.findall(r"^`([^`\n]+)`:\n\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert len(outputs) == len(re.findall("^```text$", text, re.MULTILINE)), f"bug {number}: an output has no label"
        found.append(Bug(int(number), lines[0], dict(outputs)))
    return found


BUGS = _bugs()


def test_the_page_has_all_ten_bugs_on_all_three_kernels() -> None:
    rules = (ROOT / "docs" / "KERNEL.md").read_text(encoding="utf-8")
    told = re.split(r"^## 7\. As-posted bugs.*\n", rules, maxsplit=1, flags=re.MULTILINE)[1].partition("\n## ")[0]
    assert [bug.number for bug in BUGS] == [int(n) for n in re.findall(r"^(\d+)\. ", told, re.MULTILINE)]
    assert [tuple(bug.outputs) for bug in BUGS] == [KERNELS] * len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.number))
def test_a_line_prints_what_the_page_says(run: Runner, bug: Bug) -> None:
    """Compared to the byte, what bash and the tools complain of included; the three kernels run at once."""
    need("bash", "dmesg")
    run.environment["LC_ALL"] = "C"
    words = shlex.split(bug.line)
    assert words[:2] == COMMAND
    started = {}
    for kernel in KERNELS:
        arguments = [word.replace("$KERNEL", kernel) for word in words[2 : words.index("--")]]
        arguments += words[words.index("--") :]
        started[kernel] = run.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = {kernel: process.communicate(timeout=PATIENCE_SECONDS)[0] for kernel, process in started.items()}
    assert printed == bug.outputs


def test_the_outputs_tell_the_posted_code_from_both_others() -> None:
    """Bug 9 is common to all; every other shows as posted only."""
    for bug in BUGS:
        posted, ours, merged = (bug.outputs[kernel] for kernel in KERNELS)
        assert (posted in {ours, merged}) == (bug.number == 9), bug.number
