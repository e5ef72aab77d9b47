"""Names from files: as file names, inside a folder, on a line."""

import contextlib
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evagen.kernels.names import (
    LONGEST_FILE_NAME,
    LONGEST_LINE,
    as_argument,
    as_line,
    as_text,
    file_name_of,
    path_inside,
)

HOSTILE = (
    "../../evil", "/etc/passwd", "a/b", "a\\b", "..", ".", "", " ", "CON", "nul.txt", "COM1", "x" * 300, "é" * 200,
    "line\nbreak", "a\0b", ".hidden", "-rf", "~", "ends.", "ends ", "C:x", "config.yaml", "tokens.jsonl",
    "\udcca\udcd3", "\ud800", "<img src=x onerror=alert(1)>", "a_b~c14cddc033f6",
)  # fmt: skip
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300) | st.sampled_from(HOSTILE)


ORDINARY = (
    "Boxing", "HandstandPushups", "mountain climber (exercise)", "massaging person's head", "café", "St. Bernard",
    "Mr.Bean", "跳舞", "v1_2-3", "clips", "[tag] a+b=c, 50%",
)  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_is_its_file_name(name):
    assert file_name_of(name) == name
    assert as_text(name) == as_line(name) == name


@pytest.mark.parametrize("name", [*ORDINARY, *HOSTILE])
def test_a_name_is_one_word_of_a_command_and_no_option(name):
    (word,) = shlex.split(as_argument(name))
    assert word in (name, f"./{name}")
    assert not word.startswith("-")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_its_folder(name, tmp_path):
    inside = tmp_path / "inside"
    path = inside / file_name_of(name)
    path.mkdir(parents=True)
    assert path.resolve().parent == inside.resolve()
    assert path != inside / "config.yaml"


@given(ANY_TEXT)
@example("\udcff/")
def test_any_name_is_one_file_of_a_file_system(name):
    made = file_name_of(name)
    assert made not in ("", ".", "..")
    assert not set(made) & set('/\\:*?"<>|\0\n')
    assert len(made.encode()) <= LONGEST_FILE_NAME
    assert made[0] not in ".-" or name == made
    assert made == name or file_name_of(made) != made  # what is made of another name is no name's own


@given(ANY_TEXT, ANY_TEXT)
def test_two_names_never_share_a_file(one, two):
    assert (file_name_of(one) == file_name_of(two)) == (one == two)


@given(ANY_TEXT)
def test_text_and_lines_can_be_written_anywhere(name):
    assert as_text(name).encode().decode() == as_text(name)
    line = as_line(name)
    assert line.isprintable()
    assert len(line) <= LONGEST_LINE


def test_bytes_that_are_not_utf8_are_told():
    assert as_text(os.fsdecode(b"run/\xca\xd3.mp4")) == r"run/\xca\xd3.mp4"
    assert as_line("two\nlines\x1b[2J") == r"two\nlines\x1b[2J"


@pytest.mark.parametrize("name", ["a/b.avi", "a b/c.avi", "..a/b..avi", "a: b.avi", "x.avi"])
def test_a_list_names_files_inside_its_folder(name):
    assert path_inside("root", name) == Path("root", name)


@given(st.text(st.sampled_from("./\\ab:"), max_size=8))
@example("../../x.avi")
def test_what_leads_out_of_a_folder_is_refused(name):
    with contextlib.suppress(ValueError):
        assert os.path.abspath(path_inside("/root", name)).startswith("/root")
    for outside in ("/x.avi", "../x.avi", "a/../../x.avi", "..\\x.avi", "a\\..\\..\\x.avi", "", "a\0.avi"):
        with pytest.raises(ValueError, match="leads out of"):
            path_inside("root", outside)
