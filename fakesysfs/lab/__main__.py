"""`tests/lab fetch`, `list`, `clean`: what the lab has in its cache folder."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from fakesysfs.lab import agent, guest, images
from fakesysfs.lab.archive import LabError, cache_folder, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, or 1 if the lab cannot do it."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "fetch":
            _fetch(arguments.series or images.SERIES, refresh=arguments.refresh)
        elif arguments.command == "clean":
            _clean(everything=arguments.all)
        else:
            _list()
    except LabError as error:
        say(str(error))
        return 1
    return 0


def _fetch(series: Sequence[str], *, refresh: bool) -> None:
    for name in series:
        say(f"kernel {name}: {images.kernel_image(name, refresh=refresh)}")
    say(f"QEMU {'.'.join(map(str, images.qemu_version()))}")
    images.guest_tools()
    agent.program(cache_folder())


def _list() -> None:
    for series in images.SERIES:
        for image in images.unpacked_kernels(series):
            print(f"kernel {series}: {image}")  # noqa: T201  what a command does
    for state in sorted((cache_folder() / "states").glob("*.state")):
        print(f"state {state.stem}: {state.stat().st_blocks * 512 / 1e6:.0f} MB")  # noqa: T201


def _clean(*, everything: bool) -> None:
    """Remove what no boot uses any more, and what a stopped command has left; or all of it. Fetches nothing."""
    cache = cache_folder()
    if everything:
        shutil.rmtree(cache, ignore_errors=True)
        return
    kernels = images.newest_unpacked()
    programs = images.program_folders()
    kept = {
        *programs, agent.program_path(cache), cache / "kernels", cache / "states",
        *(cache / "kernels" / image.version for image in kernels),
    }  # fmt: skip
    if all(folder.is_dir() for folder in programs):
        kept |= guest.current_files(kernels)
    for folder in (cache, cache / "kernels", cache / "states"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path not in kept:
                say(f"{path.relative_to(cache)} is removed")
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/lab", description="What the lab has in its cache folder.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = commands.add_parser("fetch", help="fetch kernels, QEMU and the guests' tools, and build the agent")
    fetch.add_argument("--refresh", action="store_true", help="look for a newer kernel of a series that is there")
    fetch.add_argument(
        "series", nargs="*", metavar="SERIES", help=f"kernels by their series (default: {' '.join(images.SERIES)})"
    )
    commands.add_parser("list", help="list kernels and saved states")
    clean = commands.add_parser(
        "clean", help="remove what newer kernels, QEMU or tools have replaced, and what a stopped command has left"
    )
    clean.add_argument("--all", action="store_true", help="remove everything")
    return parser


if __name__ == "__main__":
    sys.exit(main())
