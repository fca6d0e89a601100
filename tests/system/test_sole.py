"""A folder is one process's at a time."""

from __future__ import annotations

from holding import another

from guided_ft.system import sole


def test_a_folder_that_another_process_holds_is_told_with_its_number(tmp_path):
    with another(tmp_path / "new") as (process, told):
        assert told == "None"
        assert sole.hold(tmp_path / "new") == f"process {process.pid}"
    # It was killed.
    assert sole.hold(tmp_path / "new") is None


def test_a_folder_of_ours_stays_so_until_it_is_let_go(tmp_path):
    assert sole.hold(tmp_path) is None
    assert sole.hold(tmp_path) is None
    with another(tmp_path) as (_, told):
        assert told.startswith("process ")
    sole.let_go(tmp_path)
    with another(tmp_path) as (_, told):
        assert told == "None"
