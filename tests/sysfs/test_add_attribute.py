"""CONTRIBUTING.md's recipe: a read-only attribute of memory blocks is one line of a table and one function."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fakesysfs

PACKAGE = Path(fakesysfs.__file__).parent

FUNCTION = """
def _first_byte_show(block: MemoryBlock) -> str:
    return f"{block.index * block.blocks.block_size:#x}"


"""
LINE = '        RO("first_byte", _first_byte_show, "First byte of the block, hexadecimal."),\n'

READ = """
import stat
from tests.model import Face

face = Face()
block = "/sys/bus/memory/devices/memory33"
status = face.sysroot.tree.getattr(face.sysroot.tree.resolve(f"{block}/first_byte"))
print(face.read(f"{block}/first_byte"), end="")
print(stat.filemode(status.mode), status.size, face.refusal(f"{block}/first_byte", "1"))
print(face.names(block).count("first_byte"), face.read(f"{block}/phys_index"), end="")
"""


def test_a_line_and_a_function_add_a_read_only_attribute_to_memory_blocks(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "fakesysfs", ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "fakesysfs/sysfs/memory.py"
    before, start, entries = table.read_text().partition("MEMORY_BLOCK = ")
    neighbour = '        RO("phys_index"'
    assert entries.count(neighbour) == 1
    table.write_text(before + FUNCTION.lstrip("\n") + start + entries.replace(neighbour, LINE + neighbour))

    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}", "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", READ], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["0x108000000", "-r--r--r-- 4096 EACCES", "1 00000021"]
