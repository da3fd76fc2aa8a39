"""Each behaviour that a profile names, and each rule that says what may differ, is noticed by the proof.

scripts/mutation_check.py changes them one by one; tests/mutations.json names what fails then.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fakesysfs.kernel.profile import PROFILES, Profile
from fakesysfs.replay.recording import load

ROOT = Path(__file__).resolve().parent.parent


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation_check", ROOT / "scripts" / "mutation_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


check = _script()


def test_each_field_of_a_profile_is_read() -> None:
    """By name, in the package, outside the table itself."""
    read = {
        node.attr
        for path in (ROOT / "fakesysfs").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert set(Profile.__dataclass_fields__) <= read


def test_each_mutation_has_a_row_and_each_row_a_mutation() -> None:
    """Run scripts/mutation_check.py --find --new after a change of the profiles or of the rules."""
    mutations = [(mutation.of, mutation.what) for mutation in check.mutations()]
    rows = [(of, what) for of, its in check.table().items() for what in its]
    assert sorted(mutations) == sorted(rows)
    assert len(set(mutations)) == len(mutations)


def test_each_row_names_a_recording_or_a_test() -> None:
    known = {recording.name for recording in check.recordings()}
    for of, rows in check.table().items():
        for what, noticed_by in rows.items():
            path, _, test = noticed_by.partition("::")
            is_test = test and f"def {test.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8")
            assert noticed_by in known or is_test, (of, what)


def test_a_mutation_that_shows_is_noticed_and_the_unchanged_kernel_is_not() -> None:
    """The check itself: it can fail, and it can pass."""
    recordings = [load(ROOT / "tests/recordings/sessions/7.3/04-boot-policy-online.jsonl")]
    (mutation,) = [m for m in check.mutations() if (m.of, m.what) == ("7.3", "words_written: without unplugged")]
    unchanged = check.Mutation("7.3", "unchanged", changed=PROFILES["7.3"])
    assert check.first_failing(unchanged, recordings, 1) is None
    assert check.first_failing(mutation, recordings, 1) == recordings[0].name


@pytest.mark.ci
@pytest.mark.mount
@pytest.mark.tools
@pytest.mark.parametrize("mutation", list(check.mutations()), ids=lambda mutation: f"{mutation.of}: {mutation.what}")
def test_what_the_table_names_fails(mutation: object) -> None:
    noticed_by = check.table()[mutation.of][mutation.what]  # type: ignore[attr-defined]  # loaded from the script
    assert check.check(mutation, noticed_by, check.recordings())
