"""The options of `fakesysfs explore`. Imports nothing, as the parser of all commands has them."""

from __future__ import annotations

import argparse

ABOUT = """\
A step is one system call on the fake: a path walk with the open, read or write behind it. A search
runs the programs once for each order of their steps, each time on a machine that has just booted.

Without --check an order fails if a program ends with another status than 0. With --check only
--check and --always decide; EXPLORE_STATUS_A, EXPLORE_STATUS_B, ... in its environment are the exit
statuses of the programs. A deadlock always fails, and so does a program that runs for 30 seconds
without a step. An order of more than 2,000 steps is given up.

An order fails, too, if it wedges a device, unless --allow-wedged is given: after the last step and
--check the memory can no longer be taken away, though that works after --setup. The explorer writes
`unplug` (`unplugged`), or offlines each block and unbinds the driver.

What the programs write to standard output is dropped, except with --replay. What they write to
standard error is shown in the report if they fail. Each failing order is written to a file for
--replay, in the working directory.

Exit status: 0 no order fails, 1 some fail, 2 wrong use, 3 the search was cut short and none failed.
With --replay: 0 the order does not fail, 1 it fails, 3 it cannot be followed any more.
"""
"""What stands below the options in the help."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """The options of the command, but --machine and --kernel."""
    parser.add_argument("--udev", action="store_true", help="with a systemd-udevd as one more program")
    parser.add_argument(
        "--rules",
        metavar="DIR|FILE",
        action="append",
        help="udev rules, may be repeated; `none`, or `distribution` (the default)",
    )
    parser.add_argument("--setup", metavar="CMD", help="run this before each order, after the boot")
    parser.add_argument("--check", metavar="CMD", help="run this after each order; it fails if the status is not 0")
    parser.add_argument(
        "--always", metavar="CMD", help="run this after each step; the order fails if the status is not 0"
    )
    parser.add_argument(
        "--preemptions",
        metavar="N",
        type=_count,
        help="leave out orders in which more than N times a program stops that could have gone on",
    )
    parser.add_argument(
        "--no-reduction",
        action="store_true",
        help="explore orders that differ in steps that commute only, too; programs that talk to each other by "
        "files of the host, pipes or signals need this",
    )
    parser.add_argument("--limit", metavar="N", type=_count, help="end the search after so many orders")
    parser.add_argument("--seconds", metavar="S", type=float, help="end the search after that time")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_positive,
        help="how many orders run at once, each on its mount; default: 1",
    )
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="explore the K-th of N parts, for instance on one of N machines; --json writes it for --merge",
    )
    parser.add_argument("--merge", metavar="PATH", nargs="+", help="report what all parts of a search have found")
    parser.add_argument("--json", metavar="PATH", help="write the result to this file too; - is standard output")
    parser.add_argument(
        "--html",
        metavar="PATH",
        help="write a page with the timeline of the shortest failing order to this file; others get a number",
    )
    parser.add_argument(
        "--inside",
        action="store_true",
        help="other programs go on within a write too: between two memory blocks, between two ranges",
    )
    parser.add_argument(
        "--allow-wedged",
        action="store_true",
        help="an order may leave memory that can neither be unplugged nor offlined and removed any more",
    )
    parser.add_argument("--replay", metavar="PATH", help="run an order from such a file again; verify each step")
    parser.add_argument(
        "--until", metavar="STEP", type=_positive, help="with --replay: start a shell before this step, counted from 1"
    )
    parser.add_argument(
        "programs", metavar="PROGRAM", nargs="*", help="a command for `sh -c`, in quotes; or one SCENARIO.toml"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
