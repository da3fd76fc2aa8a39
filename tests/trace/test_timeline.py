"""The page of a trace as a file: complete, small, readable, and without an outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fakesysfs.testing import Machine
from fakesysfs.testing.machine import RunningMachine
from fakesysfs.trace import events
from fakesysfs.trace.events import from_lines
from fakesysfs.trace.timeline import Timeline, page
from tests.trace.replayed import data_in

BLOCK = "/sys/devices/system/memory/memory{}/state"


@pytest.fixture
def traced(tmp_path: Path) -> Callable[[Callable[[RunningMachine], object]], list[events.Event]]:
    """Runs something on a traced machine; returns the events."""

    def run(what: Callable[[RunningMachine], object]) -> list[events.Event]:
        with Machine("default", "7.2", trace=tmp_path / "t.jsonl") as machine:
            what(machine)
        return list(from_lines((tmp_path / "t.jsonl").read_bytes().splitlines(keepends=True)))

    return run


Run = Callable[[Callable[[RunningMachine], object]], list[events.Event]]


def busy(machine: RunningMachine) -> None:
    for number in range(2500):
        machine.write(BLOCK.format(64 + number % 32), "offline" if number // 32 % 2 == 0 else "online")


def test_a_page_of_5000_calls_is_below_1_mb(traced: Run) -> None:
    happened = traced(busy)
    text = page(happened, "busy")
    assert len(data_in(text)["ops"]) == 5000
    assert len(text.encode()) < 1_000_000


KINDS = {
    "boots": "Boot",
    "ops": "Op",
    "waits": "Wait",
    "locks": "Lock",
    "uevents": "Uevent",
    "log": "Log",
    "blocks": "Blocks",
    "nodes": "Node",
    "dax": "Dax",
    "memory": "Memory",
}


def test_nothing_is_lost(traced: Run) -> None:
    happened = traced(busy)
    data = data_in(page(happened, "busy"))
    kinds = [type(event).__name__ for event in happened if getattr(event, "duration", 0) is not None]
    counts = {name: kinds.count(kind) for name, kind in KINDS.items()}
    assert {name: len(data[name]) for name in counts} == counts


def test_a_call_has_the_places_where_it_began_and_ended(traced: Run) -> None:
    def removal(machine: RunningMachine) -> None:
        machine.set_latency(offline_block=1)
        machine.start_write(BLOCK.format(70), "offline").result()

    happened = traced(removal)
    (write,) = (op for op in data_in(page(happened, "t"))["ops"] if op["op"] == "write")
    began, ended = write["at"]
    ours = [place for place, event in enumerate(happened) if getattr(event, "op", None) == write["seq"]]
    assert began <= min(ours) < max(ours) < ended
    assert write["duration"] == 1


def test_the_events_are_readable_and_cannot_end_their_script(traced: Run) -> None:
    def refused(machine: RunningMachine) -> None:
        with pytest.raises(OSError, match="Invalid"):
            machine.write(BLOCK.format(70), "</script><!--EVENTS-->")

    text = page(traced(refused), "<b>title</b>", "a note & more")
    assert "&lt;b&gt;title&lt;/b&gt;" in text
    assert "a note &amp; more" in text
    (write,) = (op for op in data_in(text)["ops"] if op.get("errno"))
    assert (write["data"], write["errno"]) == ("</script><!--EVENTS-->", "EINVAL")
    assert text.count("</script>") == 2


def test_a_page_links_nowhere(traced: Run) -> None:
    text = page(traced(lambda machine: machine.read(BLOCK.format(70))), "t")
    assert re.findall(r"""(?:src|href|action)\s*=|url\(|@import|https?://|fetch\(|import\(""", text) == []
    assert "default-src 'none'" in text


def test_a_killed_run_has_its_calls_under_way(traced: Run) -> None:
    def stuck(machine: RunningMachine) -> None:
        machine.pin(70)
        machine.start_write(BLOCK.format(70), "offline")

    happened = traced(stuck)
    waiting = next(place for place, event in enumerate(happened) if isinstance(event, events.Wait))
    (write,) = (op for op in Timeline(happened[: waiting + 1]).lists["ops"] if op["op"] == "write")
    assert write["duration"] is None
    assert write["at"][1] is None


# The command ----------------------------------------------------------------------------------------------------------


def timeline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fakesysfs", "timeline", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_writes_the_page_beside_the_trace_or_where_it_is_told(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    with Machine(trace=trace):
        pass
    done = timeline(trace)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "<title>t.jsonl</title>" in (tmp_path / "t.html").read_text()
    assert timeline(trace, "-o", "-").stdout == (tmp_path / "t.html").read_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"", "it has no first line of type `trace`"),
        (b"\n\x0a\x10garbage\n", "no JSON lines of `fakesysfs run --trace FILE.jsonl`"),
        (b'{"type": "other"}\n', "no JSON lines of `fakesysfs run --trace FILE.jsonl`"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    trace = tmp_path / "t.jsonl"
    if content is not None:
        trace.write_bytes(content)
    done = timeline(trace)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "t.html").exists()
