"""What a user wrote, read as the kernel reads it. The accepted and refused spellings are KERNEL.md 1, 2 and 4."""

from __future__ import annotations

import errno
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.kstrtox import c_string, kstrtobool, kstrtoull, memparse, sysfs_match_string, word_of
from fakesysfs.ops.errors import KernelError


@pytest.mark.parametrize("buffer", [b"online", b"online\n", b"online\0junk", b"online\n\0junk", b"online\0"])
def test_a_word_may_have_one_newline_and_anything_after_a_nul(buffer: bytes) -> None:
    assert sysfs_match_string({"offline": 0, "online": 1}, buffer, "state_store") == 1


@pytest.mark.parametrize(
    "buffer",
    [b"online\n\n", b" online", b"online ", b"online\r\n", b"Online", b"onlin", b"onlinee", b"", b"\n", b"\0online"],
)
def test_any_other_spelling_is_another_word(buffer: bytes) -> None:
    with pytest.raises(KernelError, match="EINVAL"):
        sysfs_match_string({"online": 1}, buffer, "state_store")


@pytest.mark.parametrize(
    "buffer",
    [
        b"1",
        b"1\n",
        b"1x",
        b"y",
        b"Y",
        b"yes",
        b"t",
        b"T",
        b"true",
        b"on",
        b"ON",
        b"on\n",
        b"e",
        b"E",
        b"enable",
        b"y\0n",
    ],
)
def test_true_by_the_first_characters(buffer: bytes) -> None:
    assert kstrtobool(buffer, "test")


@pytest.mark.parametrize(
    "buffer", [b"0", b"0\n", b"01", b"0x", b"n", b"N", b"no", b"f", b"F", b"off", b"OF", b"of", b"d", b"D", b"disable"]
)
def test_false_by_the_first_characters(buffer: bytes) -> None:
    assert not kstrtobool(buffer, "test")


@pytest.mark.parametrize("buffer", [b"", b"\n", b"o", b"oz", b"o\n", b"2", b"-1", b" 1", b"\0" + b"1", b"\xff"])
def test_neither_true_nor_false(buffer: bytes) -> None:
    with pytest.raises(KernelError) as refusal:
        kstrtobool(buffer, "online_store")
    assert (refusal.value.errno, refusal.value.where) == (errno.EINVAL, "online_store")


@pytest.mark.parametrize(
    ("buffer", "base", "value"),
    [
        (b"0", 0, 0), (b"10", 0, 10), (b"010", 0, 8), (b"0x10", 0, 16), (b"0X1f", 0, 31), (b"+7", 0, 7), (b"7\n", 0, 7),
        (b"7\0junk", 0, 7), (b"010", 10, 10), (b"18446744073709551615", 0, (1 << 64) - 1),
        (b"1f", 16, 31), (b"0x1f", 16, 31),
    ],
)  # fmt: skip
def test_numbers(buffer: bytes, base: int, value: int) -> None:
    assert kstrtoull(buffer, base, "test") == value


@pytest.mark.parametrize(
    "buffer", [b"", b"\n", b"-1", b"08", b"0x", b"0xg", b"1 ", b" 1", b"1\n\n", b"1_0", b"++1", b"\xb2", b"1e3", b"1.0"]
)
def test_what_is_no_number(buffer: bytes) -> None:
    with pytest.raises(KernelError) as refusal:
        kstrtoull(buffer, 0, "size_store")
    assert refusal.value.errno == errno.EINVAL
    with pytest.raises(KernelError) as refusal:
        kstrtoull(buffer, 0, "align_store", otherwise=errno.ENXIO)
    assert refusal.value.errno == errno.ENXIO


@pytest.mark.parametrize("buffer", [b"18446744073709551616", b"0x10000000000000000", b"9" * 4096])
def test_a_number_beyond_64_bits_is_out_of_range(buffer: bytes) -> None:
    with pytest.raises(KernelError) as refusal:
        kstrtoull(buffer, 0, "test")
    assert refusal.value.errno == errno.ERANGE
    with pytest.raises(KernelError) as refusal:
        kstrtoull(buffer, 0, "align_store", otherwise=errno.ENXIO)
    assert refusal.value.errno == errno.ENXIO


@given(st.binary(max_size=5000), st.sampled_from([0, 8, 10, 16]))
def test_bytes_of_any_kind_are_a_value_or_a_refusal(buffer: bytes, base: int) -> None:
    for parse in (functools.partial(kstrtoull, buffer, base), functools.partial(kstrtobool, buffer)):
        try:
            parse("test")
        except KernelError as error:
            assert error.errno in {errno.EINVAL, errno.ERANGE}  # noqa: PT017  a refusal is one of two good answers
    assert b"\0" not in c_string(buffer)
    word_of(buffer).encode()


@pytest.mark.parametrize(
    ("buffer", "value", "rest"),
    [
        (b"4096", 4096, b""),
        (b"2M", 2 << 20, b""),
        (b"2048kB", 2 << 20, b"B"),
        (b"0x10g x", 16 << 30, b" x"),
        (b"010", 8, b""),
        (b"08", 0, b"8"),
        (b"1E", 1 << 60, b""),
        (b"16E", 0, b""),
        (b"M", 0, b"M"),
        (b"-1", 0, b"-1"),
        (b"", 0, b""),
    ],
)
def test_a_number_with_a_suffix(buffer: bytes, value: int, rest: bytes) -> None:
    assert memparse(buffer) == (value, rest)
