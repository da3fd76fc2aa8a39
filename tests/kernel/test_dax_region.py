"""Seed and youngest device of a region (7.2/05-daxctl-create-destroy, i=19; snapshots 7.2/01 and 04)."""

from __future__ import annotations

from fakesysfs.kernel.dax.bus import DaxRegion, create_store, delete_store, size_store
from tests.model import BLOCK, bind, booted, dax, drive, region_of, unbind


def named(region: DaxRegion) -> tuple[str | None, str | None]:
    """The names of seed and youngest."""
    return (region.seed.name if region.seed else None, region.youngest.name if region.youngest else None)


def test_the_region_s_own_device_is_neither() -> None:
    assert named(region_of(booted(modules=("dax_hmem",)))) == (None, None)


def test_the_seed_is_the_first_created_device_until_it_is_bound() -> None:
    kernel = booted()
    region = region_of(kernel)
    assert unbind(kernel) == "ok"
    size_store(dax(kernel), b"0")
    drive(create_store(region, b"1"))
    drive(create_store(region, b"1"))
    assert named(region) == ("dax0.1", "dax0.2")
    size_store(dax(kernel, "dax0.2"), b"%d" % BLOCK)
    assert bind(kernel, "dax0.2") == "EBUSY"  # its range leaked at the unbind: a failed probe leaves the seed
    drive(create_store(region, b"1"))
    assert named(region) == ("dax0.1", "dax0.3")


def test_a_bound_seed_makes_room_for_the_next() -> None:
    kernel = booted("7.2", modules=("device_dax", "dax_hmem"))
    region = region_of(kernel)
    size_store(dax(kernel), b"0")
    drive(create_store(region, b"1"))
    size_store(dax(kernel, "dax0.1"), b"%d" % BLOCK)
    drive(kernel.modprobe("kmem"))
    assert named(region) == (None, "dax0.1")
    drive(create_store(region, b"1"))
    assert named(region) == ("dax0.2", "dax0.2")


def test_deleting_one_forgets_it() -> None:
    kernel = booted("7.2", modules=("dax_hmem",))
    region = region_of(kernel)
    size_store(dax(kernel), b"0")
    drive(create_store(region, b"1"))
    drive(create_store(region, b"1"))
    drive(delete_store(region, b"dax0.1\n"))
    assert named(region) == (None, "dax0.2")
    drive(create_store(region, b"1"))  # the number is free again
    assert named(region) == ("dax0.1", "dax0.1")
    drive(delete_store(region, b"dax0.1\n"))
    assert named(region) == (None, None)
