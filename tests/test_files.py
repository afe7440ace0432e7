import json
import math
import os
import zipfile

import numpy as np
import pytest

from robotics import FileError, PlanarArm
from robotics.files import (
    read_json,
    read_npz,
    read_scene,
    read_targets_csv,
    write_bytes,
    write_csv,
    write_json,
    write_npz,
    write_text,
)


def refused(function, path, *fragments):
    """The message of the FileError: one line that begins with the file and holds the fragments."""
    with pytest.raises(FileError) as raised:
        function(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 250
    for fragment in ("expected", "found", *fragments):
        assert fragment in message
    return message


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(lambda path: write_text(path, "new"), pipe, "found what is no file")
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["", "/"])
def test_a_name_without_a_last_part_is_refused(name):
    refused(lambda path: write_text(path, "new"), name, "found")


def test_until_the_new_file_is_complete_a_reader_sees_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    seen = []
    replace = os.replace

    def spy(source, target):
        seen.append((path.read_text(), source.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_text(path, "new")
    assert seen == [("old", "new")]
    assert path.read_text() == "new"


def test_what_cannot_be_serialised_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert read_json(path) == [1]
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["missing/a.txt", "file/a.txt", "folder", "n" * 300])
def test_an_impossible_place_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    refused(lambda path: write_bytes(path, b"data"), tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_json_survives_writing_and_reading(tmp_path):
    data = {"a": [1, 0.1, -1e-300], "b": None, "θ": "ü"}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "line 1"),
        (b'{"a": 1,\n "b": ', "line 2"),
        (b"not json", "'not json'"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 100_000, "JSON"),
        (b"1" * 10_000, "JSON"),
    ],
)
def test_broken_json_is_refused_in_one_line(tmp_path, content, fragment):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    refused(read_json, path, fragment)


def test_missing_files_are_refused_in_one_line(tmp_path):
    for function in (read_json, read_targets_csv, read_scene, lambda path: read_npz(path, ("a",))):
        refused(function, tmp_path / "missing", "No such file")
        with pytest.raises(FileError, match="directory"):
            function(tmp_path)


def test_npz_survives_writing_and_reading(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 2))}
    write_npz(tmp_path / "a.npz", arrays)
    again = read_npz(tmp_path / "a.npz", ("b", "a"))
    assert set(again) == {"a", "b"}
    for name, array in arrays.items():
        assert np.array_equal(again[name], array)
        assert again[name].shape == array.shape


def test_an_npz_file_with_other_arrays_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.zeros(1)})
    refused(lambda path: read_npz(path, ("a", "b")), path, "a, b", "['a']")
    refused(lambda path: read_npz(path, ()), path)


def test_every_truncation_of_an_npz_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.arange(4.0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(lambda path: read_npz(path, ("a",)), path)


@pytest.mark.filterwarnings("default")  # a damaged header may read as an old one, of which numpy warns
def test_an_edited_npz_file_is_refused_or_reads_unchanged(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.arange(4.0)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for change in (1, 8, 0x80, 0xFF):  # 8 turns `stored` into `deflated`
            edited = bytearray(whole)
            edited[place] ^= change
            path.write_bytes(edited)
            try:
                array = read_npz(path, ("a",))["a"]
            except FileError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert np.array_equal(array, np.arange(4.0))


def test_an_array_larger_than_any_memory_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(file, header)
    refused(lambda path: read_npz(path, ("a",)), path)


def test_a_damaged_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(1000.0))
    damaged = bytearray(path.read_bytes())
    damaged[200:300] = b"\xff" * 100
    path.write_bytes(damaged)
    refused(lambda path: read_npz(path, ("a",)), path)


def test_files_that_are_no_archive_of_numbers_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{}, None], dtype=object))
    refused(lambda path: read_npz(path, ("a",)), path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refused(lambda path: read_npz(path, ("a",)), path, "single array")
    path.write_text("text")
    refused(lambda path: read_npz(path, ("a",)), path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x,y\n1,2\n", [[1, 2]]),
        ("x,y,theta\n1,2,3\n-1e-3, 2.5 ,0\n", [[1, 2, 3], [-1e-3, 2.5, 0]]),
        ("x,y\r\n1,2\r\n", [[1, 2]]),
        ("x,y\n1,2", [[1, 2]]),
        ('\n X , "Y"\n\n1,"2"\n  \n3,4\n\n', [[1, 2], [3, 4]]),
        ("\ufeffx,y\n1,2\n", [[1, 2]]),
        ("x,y\nnan,NaN\n", [[math.nan, math.nan]]),
    ],
)
def test_targets_are_read_from_csv(tmp_path, text, expected):
    path = tmp_path / "targets.csv"
    path.write_bytes(text.encode())
    targets = read_targets_csv(path)
    assert targets.dtype == np.float64
    assert np.array_equal(targets, np.array(expected), equal_nan=True)


@pytest.mark.parametrize(
    ("text", "line", "fragment"),
    [
        ("", 1, "an empty file"),
        ("\n\n", 1, "an empty file"),
        ("x,y\n", 2, "the header alone"),
        ("1,2\n3,4\n", 1, "'1,2'"),
        ("x;y\n1;2\n", 1, "'x;y'"),
        ("y,x\n1,2\n", 1, "'y,x'"),
        ("x\n1\n", 1, "'x'"),
        ("x,y,theta,phi\n1,2,3,4\n", 1, "'x,y,theta,phi'"),
        ("x,y\n1,2\n3\n", 3, "'3'"),
        ("x,y\n1,2,3\n", 2, "'1,2,3'"),
        ("x,y\n,\n", 2, "column x"),
        ("x,y\n1,2\n\n1,two\n", 4, "column y"),
        ("x,y,theta\n1,2,\n", 2, "column theta"),
        ("x,y\n1,inf\n", 2, "column y"),
        ("x,y\n1,1e999\n", 2, "column y"),
        ('x,y\n1,"2\n', 2, "CSV"),
        ("x,y\n1," + "9" * 200_000 + "\n", 2, "CSV"),
        ('x,y\n1,"a\nb"\n', 3, "column y"),
    ],
)
def test_broken_targets_are_refused_with_the_number_of_the_line(tmp_path, text, line, fragment):
    path = tmp_path / "targets.csv"
    path.write_text(text)
    refused(read_targets_csv, path, f", line {line}", fragment)


def test_a_targets_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_bytes(b"x,y\n\xff,1\n")
    refused(read_targets_csv, path, "UTF-8")
    path.write_bytes(b"x,y\n\x00,1\n")
    refused(read_targets_csv, path, "line 2")


def test_numbers_keep_all_digits_and_nan_in_csv(tmp_path):
    path, numbers = tmp_path / "angles.csv", [[0.1, 1 / 3], [math.nan, -1e-300]]
    write_csv(path, ["theta_1", "theta_2"], numbers)
    lines = path.read_text().splitlines()
    assert lines[0] == "theta_1,theta_2"
    rows = [[float(field) for field in line.split(",")] for line in lines[1:]]
    assert np.array_equal(rows, numbers, equal_nan=True)
    assert "nan" in lines[2]
    write_csv(path, ["theta_1", "theta_2"], [])
    assert path.read_text() == "theta_1,theta_2\n"


def test_csv_fields_with_commas_are_quoted(tmp_path):
    write_csv(tmp_path / "a.csv", ["a", "b"], [["x,y", 1], [None, 0.1]])
    assert (tmp_path / "a.csv").read_text() == 'a,b\n"x,y",1\n,0.1\n'


def test_a_scene_has_circles_and_may_have_an_arm(tmp_path):
    path = tmp_path / "scene.json"
    write_json(path, {"circles": [[1, 2, 0.5]]})
    circles, arm = read_scene(path)
    assert circles.centers.tolist() == [[1, 2]]
    assert circles.radii.tolist() == [0.5]
    assert arm is None
    write_json(path, {"circles": [], "arm": PlanarArm.duka().to_json()})
    circles, arm = read_scene(path)
    assert circles.centers.shape == (0, 2)
    assert arm == PlanarArm.duka()
    write_json(path, {"circles": [], "arm": {"lengths": [1, 2], "limits": [[0, 1], [-1, 0]]}})
    assert read_scene(path)[1] == PlanarArm(lengths=(1, 2), limits=((0, 1), (-1, 0)))


ARM = {"lengths": [1, 1], "limits": [[0, 1], [0, 1]]}


@pytest.mark.parametrize(
    ("scene", "fragment"),
    [
        ([], "scene"),
        (None, "scene"),
        ({}, "'circles'"),
        ({"arm": ARM}, "'circles'"),
        ({"circles": [], "circle": []}, "'circle'"),
        ({"circles": [[0, 0, 0]]}, "radius > 0"),
        ({"circles": [[0, 0, 1], [0, 0, -1]]}, "circles[1]"),
        ({"circles": [[0, 0, math.nan]]}, "circles[0]"),
        ({"circles": [[0, math.inf, 1]]}, "circles[0]"),
        ({"circles": [[0, 1]]}, "circles[0]"),
        ({"circles": [["\n" * 100, 0, 1]]}, "circles[0]"),
        ({"circles": "none"}, "circles"),
        ({"circles": [], "arm": None}, "arm"),
        ({"circles": [], "arm": {"lengths": [1, 1]}}, "'limits'"),
        ({"circles": [], "arm": ARM | {"mass": 1}}, "'mass'"),
        ({"circles": [], "arm": ARM | {"lengths": [1, 0]}}, "lengths"),
        ({"circles": [], "arm": ARM | {"lengths": [1]}}, "limits"),
        ({"circles": [], "arm": ARM | {"limits": [[1, 0], [0, 1]]}}, "limits[0]"),
        ({"circles": [], "arm": ARM | {"limits": [[0, 1], [0, math.nan]]}}, "limits[1]"),
    ],
)
def test_a_malformed_scene_is_refused_in_one_line_that_names_the_entry(tmp_path, scene, fragment):
    path = tmp_path / "scene.json"
    path.write_text(json.dumps(scene))
    refused(read_scene, path, fragment)


def test_a_half_written_scene_is_refused(tmp_path):
    path = tmp_path / "scene.json"
    text = json.dumps({"circles": [[1, 2, 0.5]], "arm": ARM})
    for length in range(len(text)):
        path.write_text(text[:length])
        refused(read_scene, path)
