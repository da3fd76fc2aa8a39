"""The archive that the kernel unpacks, read back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fakesysfs.lab.cpio import Archive

_FIELDS = ("ino", "mode", "uid", "gid", "nlink", "mtime", "size", "major", "minor", "rmajor", "rminor", "namesize")
_HEAD = 110


def entries(data: bytes) -> dict[str, tuple[dict[str, int], bytes]]:
    """Name -> fields and content, in the order of the archive (the format: usr/gen_init_cpio of the kernel)."""
    found: dict[str, tuple[dict[str, int], bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        numbers = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(len(_FIELDS))]
        fields = dict(zip(_FIELDS, numbers, strict=True))
        name = data[at + _HEAD : at + _HEAD + fields["namesize"] - 1].decode()
        start = -(-(at + _HEAD + fields["namesize"]) // 4) * 4
        content = data[start : start + fields["size"]]
        at = -(-(start + fields["size"]) // 4) * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (fields, content)


def test_directories_come_before_what_is_in_them() -> None:
    archive = Archive()
    archive.add_file("usr/bin/one", b"12345", 0o755)
    archive.add_file("usr/two", b"")
    archive.add_link("bin", "usr/bin")
    archive.add_device("dev/console", 5, 1)
    archive.add_file("usr/two", b"again")
    found = entries(archive.finish())
    assert list(found) == ["usr", "usr/bin", "usr/bin/one", "usr/two", "bin", "dev", "dev/console"]
    assert [stat.filemode(fields["mode"]) for fields, _ in found.values()] == [
        "drwxr-xr-x", "drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx", "drwxr-xr-x", "crw-------"
    ]  # fmt: skip
    assert found["usr/bin/one"][1] == b"12345"
    assert found["usr/two"][1] == b""
    assert found["bin"][1] == b"usr/bin"
    assert (found["dev/console"][0]["rmajor"], found["dev/console"][0]["rminor"]) == (5, 1)
    assert len({fields["ino"] for fields, _ in found.values()}) == len(found)


def test_a_tree_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x")
    os.symlink("b", tmp_path / "a/link")
    archive = Archive()
    archive.add_tree(tmp_path)
    found = entries(archive.finish())
    assert set(found) == {"a", "a/b", "a/b/file", "a/link"}
    assert found["a/link"][1] == b"b"
    assert found["a/b/file"][1] == b"x"
