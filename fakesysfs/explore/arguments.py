"""The options of `fakesysfs explore`. Imports nothing, as the parser of all commands has them."""

from __future__ import annotations

import argparse


def add_to(parser: argparse.ArgumentParser) -> None:
    """The options of the command, but --machine and --kernel."""
    parser.add_argument("--setup", metavar="CMD", default="", help="run this before each order, after the boot")
    parser.add_argument(
        "--check", metavar="CMD", default="", help="run this when all programs have ended; a status but 0: it fails"
    )
    parser.add_argument(
        "--always", metavar="CMD", default="", help="run this after each step; a status but 0: the order fails"
    )
    parser.add_argument("--preemptions", metavar="N", type=_count, help="leave out orders with more switches than N")
    parser.add_argument("--limit", metavar="N", type=_count, help="end after so many orders")
    parser.add_argument("--seconds", metavar="S", type=float, help="end after that time")
    parser.add_argument("--jobs", metavar="N", type=_positive, default=1, help="orders that run at once, default: 1")
    parser.add_argument("--json", metavar="FILE", help="write the result there too, - for standard output")
    parser.add_argument(
        "--inside", action="store_true", help="other programs go on inside of a system call too, between memory blocks"
    )
    parser.add_argument("--replay", metavar="FILE", help="run an order again that a report has written to a file")
    parser.add_argument(
        "--until", metavar="STEP", type=_positive, help="with --replay: start a shell before that step, counted from 1"
    )
    parser.add_argument("programs", metavar="PROGRAM", nargs="*", help="a shell command; two or more, each in quotes")


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
