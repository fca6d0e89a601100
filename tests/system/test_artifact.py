"""Files: written whole or not at all, read with care."""

from __future__ import annotations

import json
import math
import os
import re
import stat

import numpy as np
import pytest
import safetensors
from safetensors import SafetensorError

from guided_ft.errors import GuidedError
from guided_ft.system import arrays as arrays_module
from guided_ft.system import files
from guided_ft.system.arrays import read_arrays, write_arrays
from guided_ft.system.files import digest, read_json, read_text, replacing, write_json, write_text


@pytest.fixture
def old(tmp_path):
    """A file that already has content, alone in its folder."""
    path = tmp_path / "kept.json"
    path.write_text("old")
    return path


def assert_untouched(old):
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old], "a temporary file was left behind"


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")


# -- writing -----------------------------------------------------------------------------------------------------------
def test_new_content_replaces_old(old):
    write_text(old, "grün")
    assert old.read_bytes() == "grün".encode()
    assert list(old.parent.iterdir()) == [old]


def test_folders_are_made_on_the_way(tmp_path):
    path = tmp_path / "a" / "b" / "c.json"
    write_json(path, {"kind": "x", "version": 1})
    assert read_json(path, "x") == {"kind": "x", "version": 1}


@pytest.mark.skipif(os.name != "posix", reason="modes and umask are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_is_as_open_to_others_as_any_that_its_user_makes(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("x")
        write_text(tmp_path / "text", "x")
        write_arrays(tmp_path / "arrays", {"a": np.zeros(1)})
    finally:
        assert os.umask(before) == umask, "writing left another umask behind"
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "text", "arrays")}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_what_it_points_to_is_written(tmp_path, there):
    real, link = tmp_path / "elsewhere" / "real.jsonl", tmp_path / "link.jsonl"
    real.parent.mkdir()
    if there:
        real.write_text("old")
    link.symlink_to("elsewhere/real.jsonl")
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert (list(real.parent.iterdir()), set(tmp_path.iterdir())) == ([real], {link, real.parent})


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_stopped_while_writing(old, stop):
    def write_half() -> None:
        with replacing(old) as temporary:
            temporary.write_text("half")
            assert temporary.parent == old.parent, "a rename is atomic only within one folder"
            raise stop

    with pytest.raises(stop):
        write_half()
    assert_untouched(old)


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_failing_step_keeps_the_old_file(old, monkeypatch, step):
    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(old, "new")
    monkeypatch.undo()
    assert_untouched(old)


def test_content_is_on_disk_before_the_name_is(old, monkeypatch):
    steps = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(
            os, step, lambda *a, real=real, step=step: (steps.append((step, old.read_text())), real(*a))
        )
    write_text(old, "new")
    monkeypatch.undo()
    assert steps == [("fsync", "old"), ("replace", "old")]
    assert old.read_text() == "new"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_without_nan_or_infinity(old, bad):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(old, {"score": [1.0, bad]})
    assert_untouched(old)


def test_arrays_that_cannot_be_stored_keep_the_old_file(old):
    with pytest.raises(SafetensorError, match="object"):
        write_arrays(old, {"a": np.array([object()])})
    assert_untouched(old)


# -- reading -----------------------------------------------------------------------------------------------------------
def test_arrays_come_back_bit_for_bit(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array([-0.0, 1e-45], dtype=np.float32)}
    write_arrays(tmp_path / "x.safetensors", arrays)
    again = read_arrays(tmp_path / "x.safetensors")
    assert set(again) == {"a", "b"}
    for name, array in arrays.items():
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("read", [read_text, read_arrays, lambda path: read_json(path, "x")])
def test_what_cannot_be_read_is_a_guided_error(tmp_path, monkeypatch, read):
    missing = tmp_path / "missing"
    with refuses(f"{missing}: cannot be read (No such file or directory)"):
        read(missing)
    with refuses(f"{tmp_path}: cannot be read (Is a directory)"):
        read(tmp_path)
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    monkeypatch.setattr(arrays_module, "MAX_ARRAYS", 10)
    large = tmp_path / "large"
    large.write_bytes(b"{" * 11)
    with refuses(f"{large}: 11 bytes is more than the 10 that are read"):
        read(large)


@pytest.mark.parametrize("read", [read_text, read_arrays, lambda path: read_json(path, "x")])
def test_a_name_with_nul_is_a_guided_error(read):
    with refuses(r"'a\x00b': cannot be read (a null character in its name)"):
        read("a\0b")


def test_the_size_is_checked_before_anything_is_read(tmp_path, monkeypatch):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(arrays_module.MAX_ARRAYS + 1)
    monkeypatch.setattr(safetensors, "safe_open", lambda *a, **k: pytest.fail("it was read"))
    with pytest.raises(GuidedError, match="bytes is more than"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 10_000, "not valid JSON"),
        (b'{"kind": "plan", "rank": NaN}', "not valid JSON (NaN is not a JSON number)"),
        (b'{"kind": "plan", "rank": -Infinity}', "not valid JSON (-Infinity is not a JSON number)"),
        (b"[]", "not a plan file"),
        (b"null", "not a plan file"),
        (b'{"kind": "scores"}', "not a plan file"),
        (b'{"kind": ["plan"]}', "not a plan file"),
        (b'{"kind": "plan"}', "a plan file of version none, and version 1 is read (use the guided_ft that wrote it"),
        (b'{"kind": "plan", "version": 2}', "a plan file of version 2, and version 1 is read"),
        (b'{"kind": "plan", "version": ["\\u2028"]}', 'a plan file of version ["\\u2028"], and version 1 is read'),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_json_that_is_not_ours(tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(GuidedError, match=f"^{re.escape(str(path))}: {re.escape(message)}"):
        read_json(path, "plan")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}x", b"PK\x03\x04" * 9]
)
def test_arrays_that_are_not_ours(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(GuidedError, match=f"^{re.escape(str(path))}: not a valid safetensors file"):
        read_arrays(path)


def test_text_that_is_not_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xff")
    with refuses(f"{path}: not UTF-8 text (save it as UTF-8)"):
        read_text(path)


# -- hashes ------------------------------------------------------------------------------------------------------------
def test_digest_knows_content_type_and_shape():
    array = np.arange(6, dtype=np.int32)
    different = [
        digest(array),
        digest(array.reshape(2, 3)),
        digest(array.astype(np.int64)),
        digest(array.tobytes()),
        digest("a", "b"),
        digest("ab"),
        digest({"a": 1}),
        digest([1, 2]),
        digest(1, 2),
    ]
    assert len(set(different)) == len(different)
    assert all(re.fullmatch("[0-9a-f]{16}", d) for d in different)


def test_digest_ignores_order_of_keys_and_memory():
    assert digest({"a": 1, "b": [2]}) == digest(json.loads('{"b": [2], "a": 1}'))
    array = np.arange(6.0).reshape(2, 3)
    assert digest(array) == digest(np.asfortranarray(array))


# -- what the system refuses -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("os error 28"), OSError(13, "x")]
)
def test_whoever_is_refused_the_path_is_named(error, tmp_path):
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "x"))) as caught, files.writing(tmp_path / "x"):
        raise error
    assert caught.value.filename == str(tmp_path / "x")
    assert caught.value.errno in (28, 13)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), files.writing(tmp_path / "x"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(GuidedError, match="no room"), files.writing(tmp_path / "x"):
        raise GuidedError("no room (os error 28)")


def test_a_folder_that_takes_no_file_is_named_by_the_file(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "/somewhere/.x.abcdefgh.tmp")

    monkeypatch.setattr(files.tempfile, "mkstemp", refused)
    with pytest.raises(PermissionError) as caught:
        write_json(tmp_path / "x", {})
    assert caught.value.filename == str(tmp_path / "x")
