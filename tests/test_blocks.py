"""How the commands of a page are found, run and compared (tests/blocks.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import blocks

PAGE = """\
# A page

<!-- first: echo before >log -->
<!-- last: cat log -->

```text title="name"
a $HOME
```

```console
$ cat name
a $HOME
$ cat <<'END'
> one
> END
one
$ false
```

<!-- not run: it would end the shell -->

```sh
exit 3
```

1. In a list:

   ```sh
   NAME=other
   ```

```console
$ echo $NAME 1 2
other...2
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    return page


def test_steps(page: Path) -> None:
    steps = blocks.steps_of(page)
    assert [(step.command, step.expected) for step in steps] == [
        ("echo before >log", []),
        ("printf %s 'a $HOME\n' >name", []),
        ("cat name", ["a $HOME"]),
        ("cat <<'END'\none\nEND", ["one"]),
        ("false", []),
        ("NAME=other\n", None),
        ("echo $NAME 1 2", ["other...2"]),
        ("cat log", []),
    ]
    lines = PAGE.splitlines()
    assert [lines[step.line - 1] for step in steps[2:5]] == ["$ cat name", "$ cat <<'END'", "$ false"]


def test_only_what_differs_is_told(page: Path, tmp_path: Path) -> None:
    """Here that is what `last` prints."""
    assert blocks.run(blocks.steps_of(page), tmp_path, 20) == [
        "line 0: $ cat log\nthe page says:\n\nit printed:\nbefore\n"
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("a $HOME\n$ cat <<", "a $HONE\n$ cat <<", "$ cat name"),
        ("NAME=other\n", "NAME=other; false\n", "status 1"),
        ("$ false\n", "$ exit 4\n", "status of a command that was not reached"),
    ],
)
def test_a_wrong_page_is_noticed(page: Path, tmp_path: Path, right: str, wrong: str, told: str) -> None:
    page.write_text(PAGE.replace(right, wrong))
    assert any(told in difference for difference in blocks.run(blocks.steps_of(page), tmp_path, 20))


def test_what_is_not_run_has_a_reason(page: Path) -> None:
    found = [(block.language, block.not_run) for block in blocks.blocks_of(page)]
    assert found == [
        ("text", None),
        ("console", None),
        ("sh", "it would end the shell"),
        ("sh", None),
        ("console", None),
    ]


def test_a_test_of_its_own_runs_the_rest_of_a_page(page: Path) -> None:
    page.write_text(PAGE.replace("<!-- not run", "<!-- run by: tests/x.py -->\n<!-- not run"))
    assert [block.run_by for block in blocks.blocks_of(page)] == [None, None, *["tests/x.py"] * 3]


@pytest.mark.parametrize(
    ("page", "printed", "same"),
    [
        ("1 passed in 0.08s", "1 passed in 12.50s", True),
        ("1 passed in 0.08s", "2 passed in 0.08s", False),
        ("bash: echo: write error", "bash: line 12: echo: write error", True),
        ("16108 bash /sys/x", "7 bash /sys/x", True),
        ("16108 files", "7 files", False),
        ("...end", "a\nb\nend", True),
        ("a", "a\nb", False),
    ],
)
def test_what_differs_each_time_is_not_compared(page: str, printed: str, same: bool) -> None:  # noqa: FBT001
    assert blocks.matches(page.splitlines(), f"{printed}\n") == same


def test_text_before_the_first_command_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\nnonsense\n$ true\n```\n")
    with pytest.raises(ValueError, match="a console block begins with a command"):
        blocks.steps_of(page)


@pytest.mark.parametrize("text", ["<!-- first: false -->\n", "<!-- last: false -->\n", '```sh title="a/b"\n```\n'])
def test_what_a_page_takes_for_granted_must_succeed(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{text}```console\n$ true\n```\n")
    (difference,) = blocks.run(blocks.steps_of(page), tmp_path, 20)
    assert "status 1" in difference
