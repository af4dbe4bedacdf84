from pathlib import Path

import pytest

from pages import blocks_of, difference, marks_of, prose_of

pytestmark = pytest.mark.once

PAGE = """\
# A page

<!-- not run: it costs money -->
```python
print(1)
```
Words.

- An item

  ```python
  print(2)
  ```

  ```text
  2
  ```

```text
read only
```

<!-- not run -->
~~~sh
echo '```'
~~~
<!-- not run: nothing -->
"""


@pytest.fixture
def page(tmp_path):
    path: Path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_blocks_have_their_lines_and_their_code_without_its_indent(page):
    found = [(block.line, block.language, block.code) for block in blocks_of(page)]
    assert found == [
        (5, "python", "print(1)\n"),
        (12, "python", "print(2)\n"),
        (16, "text", "2\n"),
        (20, "text", "read only\n"),
        (25, "sh", "echo '```'\n"),
    ]


def test_a_mark_is_its_blocks_and_one_without_a_reason_shows(page):
    assert [block.not_run for block in blocks_of(page)] == ["it costs money", None, None, None, ""]
    assert marks_of(page) == [3, 23, 27]


def test_what_a_block_prints_follows_it_directly(page):
    assert [block.prints for block in blocks_of(page)] == [None, "2\n", None, None, None]


def test_prose_is_what_is_in_no_block(page):
    assert [number for number, _ in prose_of(page)] == [1, 2, 3, 7, 8, 9, 10, 14, 18, 22, 23, 27]


@pytest.mark.parametrize(
    ("printed", "said", "same"),
    [
        ("one\ntwo\n", "one\ntwo", True),
        ("one  \n", "one\n", True),
        ("it took 1.5 s (of 2)\n", "it took ... s (of 2)\n", True),
        ("one\ntwo\nthree\n", "one\n...\nthree\n", True),
        ("one\ntwo\n", "one\n", False),
        ("1x5\n", "1.5\n", False),
        ("", "one\n", False),
    ],
)
def test_what_is_printed_must_be_what_is_said(printed, said, same):
    assert (difference(printed, said) == "") is same
