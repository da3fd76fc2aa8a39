"""Decoders: device memory, the order of commits and resets (recordings 7.3-cxl)."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.cxl.core.port import CxlSwitchDecoder
from tests.cxl_model import PMEM, QUARTER, TWO_PORTS, machine, refused
from tests.model import GIB, drive


@pytest.mark.parametrize("word", [b"", b"none", b"ram ", b"pmem"])
def test_modes_that_are_refused(word: bytes) -> None:
    assert refused(lambda: machine().endpoint("decoder2.0").mode_store(word)) == "EINVAL"


def test_decoders_are_filled_in_order_and_freed_in_reverse() -> None:
    found = machine()
    first, second, third = (found.endpoint(f"decoder2.{number}") for number in range(3))
    assert refused(lambda: first.dpa_size_store(b"0x10000000")) == "EBUSY", "no mode"
    for decoder in (first, second, third):
        decoder.mode_store(b"ram")
    assert refused(lambda: second.dpa_size_store(b"0x10000000")) == "EBUSY"
    assert refused(lambda: first.dpa_size_store(b"0x1000")) == "EINVAL"
    assert refused(lambda: first.dpa_size_store(b"%d" % (2 * GIB))) == "ENOSPC"
    first.dpa_size_store(b"0x10000000")
    second.dpa_size_store(b"0x10000000")
    assert (first.dpa_resource, second.dpa_resource) == (0, QUARTER)
    assert refused(lambda: first.dpa_size_store(b"0")) == "EBUSY"
    assert refused(lambda: second.dpa_size_store(b"%d" % GIB)) == "ENOSPC"
    assert second.dpa_size == 0, "a resize that fails has freed the old memory"
    second.dpa_size_store(b"%d" % (3 * QUARTER))
    second.dpa_size_store(b"0")
    first.dpa_size_store(b"0")
    assert first.dpa_resource == (1 << 64) - 1


def test_persistent_memory_follows_and_takes_the_rest_of_ram() -> None:
    found = machine(PMEM)
    found.reserve("decoder2.0")
    assert found.reserve("decoder2.1", mode="pmem").dpa_resource == GIB
    third = found.endpoint("decoder2.2")
    third.mode_store(b"ram")
    assert refused(lambda: third.dpa_size_store(b"0x10000000")) == "ENOSPC"
    found.endpoint("decoder2.1").dpa_size_store(b"0")
    found.endpoint("decoder2.0").dpa_size_store(b"0")
    assert found.reserve("decoder2.0", GIB).dpa_resource == 0


def test_decoders_are_committed_in_order_and_reset_in_any() -> None:
    """A hole blocks its port until what is above it is reset."""
    found = machine(TWO_PORTS)
    regions = [found.committed(f"decoder2.{number}") for number in range(3)]
    port = found.port("port1")
    assert port.decoders_committed == found.port("endpoint2").decoders_committed == 3
    drive(regions[0].commit_store(b"0"))
    assert port.decoders_committed == 3
    assert refused(lambda: drive(regions[0].commit_store(b"1"))) == "EBUSY"
    fourth = found.sized()
    found.reserve("decoder3.0")
    assert refused(lambda: found.attach(fourth, "decoder3.0")) == "EBUSY"
    drive(regions[1].commit_store(b"0"))
    drive(regions[2].commit_store(b"0"))
    assert port.decoders_committed == 0, "past all idle ones at once"
    drive(regions[0].commit_store(b"1"))


def test_a_region_that_is_not_committed_holds_the_next_decoder() -> None:
    found = machine(TWO_PORTS)
    first, second = found.sized(), found.sized()
    for name in ("decoder2.0", "decoder3.0"):
        found.reserve(name)
    found.attach(first, "decoder2.0")
    assert refused(lambda: found.attach(second, "decoder3.0")) == "EBUSY"
    drive(first.commit_store(b"1"))
    found.attach(second, "decoder3.0")


def test_a_lower_address_cannot_follow_a_higher_one() -> None:
    found = machine(TWO_PORTS)
    low, high = found.sized(), found.sized()
    for name in ("decoder2.0", "decoder3.0"):
        found.reserve(name)
    found.attach(high, "decoder2.0")
    drive(high.commit_store(b"1"))
    assert refused(lambda: found.attach(low, "decoder3.0")) == "EBUSY"


def test_memory_of_a_committed_decoder_is_fixed() -> None:
    found = machine()
    found.committed("decoder2.0")
    decoder = found.endpoint("decoder2.0")
    assert refused(lambda: decoder.mode_store(b"ram")) == "EBUSY"
    assert refused(lambda: decoder.dpa_size_store(b"0")) == "EBUSY"
    assert refused(lambda: decoder.memdev.security_sanitize_store(b"1")) == "EBUSY"


def test_registers_outlive_the_driver() -> None:
    """Ways, granularity and targets are read back from the hardware."""
    found = machine(TWO_PORTS)
    region = found.committed("decoder3.0", "decoder2.0")
    found.delete(region)
    assert found.decoder("decoder1.0").interleave_ways == 2
    for name in ("mem0", "mem1"):
        found.unbind("cxl_mem", name)
    for name in ("mem0", "mem1"):
        found.bind("cxl_mem", name)
    assert (found.decoder("decoder2.0").interleave_ways, found.endpoint("decoder2.0").mode) == (2, "none")
    decoder = found.decoder("decoder1.0")
    assert isinstance(decoder, CxlSwitchDecoder)
    assert decoder.target_list == "1,0"
