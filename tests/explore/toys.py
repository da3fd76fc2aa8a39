"""Programs without a machine, for tests of the search: lists of steps, some of which take or free a lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fakesysfs.explore.order import Guide, Step, program_name

Fails = Callable[[Sequence[str]], str | None]
"""Says why an order fails, from what its steps did: `A1`, `B1`, `A2` ..."""

LOCK, UNLOCK = "lock", "unlock"


class ToyRunner:
    """Runs toy programs: each is a list of operations. `describes` is what the report asks for."""

    def __init__(self, programs: Sequence[Sequence[str]], fails: Fails = lambda _did: None) -> None:
        self.programs = programs
        self.describes = False
        self.runs = 0
        self._fails = fails

    def run(self, guide: Guide) -> None:
        """Run one order."""
        self.runs += 1
        left = {program_name(number): list(operations) for number, operations in enumerate(self.programs)}
        owner: str | None = None
        did: list[str] = []
        while True:
            runnable = [name for name, operations in left.items() if operations and _is_free(operations[0], owner)]
            if not runnable:
                break
            name = guide.choose(runnable)
            operation = left[name].pop(0)
            owner = name if operation == LOCK else None if operation == UNLOCK else owner
            did.append(f"{name}{len(self.programs[_number(name)]) - len(left[name])}")
            guide.took(Step(name, operation, result=did[-1]))
        stuck = [name for name, operations in left.items() if operations]
        guide.order.why = f"{stuck[0]} never ends" if stuck else self._fails(did)
        guide.order.kind = guide.order.why or ""


def _is_free(operation: str, owner: str | None) -> bool:
    return operation != LOCK or owner is None


def _number(name: str) -> int:
    return ord(name) - ord("A")
