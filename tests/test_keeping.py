"""Files that are whole or not there, where they are kept."""

import os

import pytest

from cospec.errors import CospecError
from cospec.storage import check_place, keep


def test_a_link_stays_one_and_its_file_keeps_its_mode(tmp_path):
    file, link = tmp_path / "file.yaml", tmp_path / "link.yaml"
    file.write_text("before")
    file.chmod(0o600)
    link.symlink_to(file)
    keep(link, "after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("write", [check_place, lambda path: keep(path, "text")], ids=["checked", "written"])
def test_what_is_no_file_is_not_written_over(tmp_path, write):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, why in ((tmp_path, "Is a directory"), (pipe, "no regular file"), (pipe / "x", "Not a directory|exists")):
        with pytest.raises(CospecError, match=f"cannot be written: .*({why})"):
            write(path)
    assert [*tmp_path.iterdir()] == [pipe]


def test_a_place_is_tried_and_left_as_it_was(tmp_path):
    path = tmp_path / "folder" / "file.yaml"
    check_place(path)
    assert [*path.parent.iterdir()] == []
    keep(path, "text")
    check_place(path)
    assert path.read_text() == "text"
