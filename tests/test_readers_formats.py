"""Annotation files: what they hold comes out exactly, or one line says what is wrong with them."""

import json
import struct

import numpy as np
import pytest
from conftest import write_annotation
from hypothesis import given
from hypothesis import strategies as st
from layouts import coco, told
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array

from hmode.data.formats import read_json, read_names, read_numbers
from hmode.data.labels import read_heads
from hmode.data.mat import read_mat, read_mat_points
from hmode.errors import MissingFileError

coordinates = st.floats(-1e6, 1e6, width=32)
points = st.lists(st.tuples(coordinates, coordinates), max_size=20)


def written(tmp_path, content, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(read, *args) -> str:
    return told(lambda: read(*args))


class TestMat:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
    def test_every_type_of_number(self, tmp_path, dtype):
        savemat(tmp_path / "a.mat", {"annPoints": np.array([[1, 200]], dtype=dtype)})
        assert read_mat_points(tmp_path / "a.mat", "annPoints").tolist() == [[1, 200]]

    @pytest.mark.parametrize("compressed", [True, False])
    def test_whatever_else_is_in_the_file(self, tmp_path, compressed):
        """As scipy writes it, and reads it back."""
        cell = np.empty((1, 2), dtype=object)
        cell[0] = [np.arange(6.0).reshape(2, 3), "text"]
        content = {
            "before": cell,
            "annPoints": np.arange(14.0).reshape(7, 2),
            "struct": {"a": np.ones((2, 2), np.int16), "b": {"c": 3.5}},
            "sparse": csc_array(np.eye(3)),
            "complex": np.ones(2, complex),
            "logical": np.array([[True, False]]),
            "cube": np.arange(24).reshape(2, 3, 4),
        }
        savemat(tmp_path / "a.mat", content, do_compression=compressed)
        found = read_mat(tmp_path / "a.mat")
        assert list(found) == list(content)
        for name in ("annPoints", "logical", "cube"):
            np.testing.assert_array_equal(found[name], loadmat(tmp_path / "a.mat")[name])
        np.testing.assert_array_equal(found["before"][0], content["before"][0, 0])
        assert found["before"][1] is found["sparse"] is found["complex"] is None
        (fields,) = found["struct"]
        np.testing.assert_array_equal(fields["a"], np.ones((2, 2)))
        assert fields["b"][0]["c"].tolist() == [[3.5]]

    def test_written_on_a_big_endian_machine(self, tmp_path):
        """By hand: a 1 x 2 array of doubles, named p."""
        numbers = np.array([1.5, -2.0], dtype=">f8").tobytes()
        array = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 1, 2)
        array += struct.pack(">HHc3x", 1, 1, b"p") + struct.pack(">II", 9, 16) + numbers
        content = b"MATLAB 5.0".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(array)) + array
        assert read_mat_points(written(tmp_path, content, "a.mat"), "p").tolist() == [[1.5, -2]]

    def test_version_4_is_named(self, tmp_path):
        savemat(tmp_path / "a.mat", {"annPoints": np.ones((7, 2))}, format="4")
        message = refused(read_mat_points, tmp_path / "a.mat", "annPoints")
        assert "a.mat: a .mat file of version 4" in message
        assert "-v7" in message

    def test_a_compressed_bomb(self, tmp_path, monkeypatch):
        savemat(tmp_path / "a.mat", {"annPoints": np.zeros((9000, 2))}, do_compression=True)
        assert read_mat_points(tmp_path / "a.mat", "annPoints").shape == (9000, 2)
        monkeypatch.setattr("hmode.data.mat.MOST_BYTES", 100_000)
        assert "over 100,000 bytes" in told(
            lambda: read_mat_points(tmp_path / "a.mat", "annPoints")
        )

    def test_version_7_3_is_named(self, tmp_path):
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + struct.pack(
            "<H2s", 512, b"IM"
        )
        content = header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(900)
        for start in (content, content[512:]):
            message = refused(read_mat_points, written(tmp_path, start, "a.mat"), "annPoints")
            assert "a.mat: a .mat file of version 7.3 (HDF5)" in message
            assert "-v7" in message

    def test_another_key_says_what_is_there(self, tmp_path):
        savemat(tmp_path / "a.mat", {"heads": np.ones((3, 2)), "n": 3})
        message = refused(read_mat_points, tmp_path / "a.mat", "point", "image_info")
        assert (
            "expected point or image_info{1,1}.location, found variables ['heads', 'n']" in message
        )

    def test_nobody(self, tmp_path):
        for nobody in (np.zeros((0, 2)), np.zeros((0, 0)), np.zeros((2, 0))):
            savemat(tmp_path / "a.mat", {"annPoints": nobody})
            assert read_mat_points(tmp_path / "a.mat", "annPoints").shape == (0, 2)

    @pytest.mark.parametrize("shape", [(2, 3), (3, 1), (1, 4), (2, 2, 2), (4,)])
    def test_another_shape_is_not_made_to_fit(self, tmp_path, shape):
        savemat(tmp_path / "a.mat", {"annPoints": np.ones(shape)})
        assert "has shape" in refused(read_mat_points, tmp_path / "a.mat", "annPoints")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
    def test_what_is_not_finite_is_named_by_its_row(self, tmp_path, bad):
        """1e39 is finite in the file, but not as float32."""
        savemat(tmp_path / "a.mat", {"annPoints": [[1, 2], [bad, 3]]})
        message = refused(read_mat_points, tmp_path / "a.mat", "annPoints")
        assert "a.mat: annPoints: point 2 is" in message
        assert "not finite" in message

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"gone\.mat: no such file"):
            read_mat_points(tmp_path / "gone.mat", "annPoints")

    @given(points=points)
    def test_shanghaitech_round_trip(self, tmp_path_factory, points):
        path = tmp_path_factory.getbasetemp() / "round.mat"
        write_annotation(path, np.reshape(points, (-1, 2)))
        assert read_mat_points(path, "image_info").tolist() == [list(point) for point in points]


class TestNumbers:
    @given(points=points)
    def test_round_trip(self, tmp_path_factory, points):
        path = tmp_path_factory.getbasetemp() / "round.txt"
        path.write_text("".join(f"{x!r} \t{y!r} \n" for x, y in points))
        assert read_numbers(path, "x y").tolist() == [list(point) for point in points]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_the_ends_of_lines_of_any_system(self, tmp_path, end):
        path = written(tmp_path, f"1 2{end}{end}3\t4{end}")
        assert read_numbers(path, "x y").tolist() == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        "word", ["one", "1_0", "nan", "inf", "0x10", "1,5", "１２", "--1", "1e", "."]
    )
    def test_what_only_looks_like_a_number(self, tmp_path, word):
        message = refused(read_numbers, written(tmp_path, f"1 2\n{word} 4\n"), "x y")
        assert f"line 2: {word!r} is not a number" in message

    def test_other_characters_are_no_space(self, tmp_path):
        for other in ("\x0c", "\x1d", "\xa0", "\0"):
            refused(read_numbers, written(tmp_path, f"1{other}2\n"), "x y")

    @pytest.mark.parametrize("content", [b"\xff\xfe1\x002", b"\x80\x81", bytes(range(256))])
    def test_what_is_no_text(self, tmp_path, content):
        assert "a.csv: not a text file" in told(
            lambda: read_numbers(written(tmp_path, content), "x y")
        )


class TestNames:
    def test_the_first_word_without_its_suffix(self, tmp_path):
        path = written(tmp_path, "image-1-000002.jpg\n\n0004 1 2\r\nb.x.JPG\n")
        assert read_names(path) == ["image-1-000002", "0004", "b.x"]

    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\\b", "C:x", "a\0b"])
    def test_a_path_is_no_name(self, tmp_path, name):
        assert "is no name of an image" in refused(read_names, written(tmp_path, f"{name}\n"))

    def test_a_name_given_twice(self, tmp_path):
        message = refused(read_names, written(tmp_path, "a.jpg\nb.jpg\na 1 2\n"))
        assert message.endswith("'a' is given twice")


class TestCsv:
    def read(self, tmp_path, content):
        return {k: v.points.tolist() for k, v in read_heads(written(tmp_path, content)).items()}

    def test_names_and_points(self, tmp_path):
        found = self.read(tmp_path, "image,x,y\na.jpg,1,2\nb.jpg,,\na.jpg, 3.5 ,4\n")
        assert found == {"a.jpg": [[1, 2], [3.5, 4]], "b.jpg": []}

    def test_names_with_commas_and_quotes(self, tmp_path):
        assert self.read(tmp_path, 'image,x,y\n"a, ""b"".jpg",1,2\n') == {'a, "b".jpg': [[1, 2]]}

    @pytest.mark.parametrize(
        "header", ["a.jpg,1,2", "image,x", "x,x,y", "image,file,x,y", "row,column"]
    )
    def test_another_header(self, tmp_path, header):
        message = refused(read_heads, written(tmp_path, f"{header}\na.jpg,1,2\n"))
        assert f"the header is {header!r}, expected the columns image, x, y" in message

    @pytest.mark.parametrize(
        ("row", "wrong"),
        [
            ("a.jpg,1", "line 3 has 2 values, its header 3"),
            ("a.jpg,1,2,3", "line 3 has 4 values, its header 3"),
            ("a.jpg,1,two", "line 3: 'two' is not a number"),
            ("a.jpg,1,", "line 3: '' is not a number"),
            ("a.jpg,,2", "line 3: '' is not a number"),
            ("a.jpg,nan,2", "line 3: 'nan' is not a number"),
            ("a.jpg,1e99,2", "not finite"),
            ('"a.jpg,1,2', "not a readable CSV file"),
        ],
    )
    def test_rows_that_cannot_be_right(self, tmp_path, row, wrong):
        content = f"image,x,y\na.jpg,1,2\n{row}\n"
        assert wrong in refused(read_heads, written(tmp_path, content))

    def test_a_last_line_without_an_end_is_doubtful(self, tmp_path):
        """1,2 may have been 1,23: the file may be cut off."""
        with pytest.warns(UserWarning, match=r"a\.csv: the last line has no end"):
            assert self.read(tmp_path, "x,y\n1,2") == {"": [[1, 2]]}

    @given(points=points)
    def test_round_trip(self, tmp_path_factory, points):
        path = tmp_path_factory.getbasetemp() / "round.csv"
        path.write_text("x,y\n" + "".join(f"{x!r},{y!r}\n" for x, y in points))
        assert read_heads(path)[""].points.tolist() == [list(point) for point in points]


class TestJson:
    @pytest.mark.parametrize("content", ["", "{", "[1,", '{"a": 1}}', "[" * 100_000, '"\\ud800'])
    def test_what_is_no_json(self, tmp_path, content):
        assert "not a readable JSON file" in refused(read_json, written(tmp_path, content))

    def test_a_key_given_twice_would_lose_people(self, tmp_path):
        content = '{"points": [[1, 2]], "points": []}'
        assert "a key is given twice" in refused(read_json, written(tmp_path, content))


class TestCoco:
    def write(self, tmp_path, content):
        return written(tmp_path, json.dumps(content), "people.json")

    def test_the_first_labelled_keypoint_is_the_person(self, tmp_path):
        path = self.write(tmp_path, coco({"a": [(1, 2), (3.5, 4)], "b": []}))
        found = read_heads(path)
        assert found["a.jpg"].points.tolist() == [[1, 2], [3.5, 4]]
        assert found["b.jpg"].points.shape == (0, 2)

    def broken(self, **changes):
        content = coco({"a": [(1, 2)]})
        content["annotations"][0] |= changes
        return content

    @pytest.mark.parametrize(
        ("changes", "wrong"),
        [
            ({"keypoints": None}, "annotation 0 has no keypoints"),
            ({"keypoints": []}, "annotation 0 has no keypoints"),
            ({"keypoints": [1, 2]}, "annotation 0 has no keypoints"),
            ({"keypoints": [0, 0, 0]}, "no labelled keypoint"),
            ({"keypoints": [1, 2, 7]}, "visibility is 7"),
            ({"keypoints": ["1", 2, 2]}, "expected [x, y]"),
            ({"keypoints": [True, 2, 2]}, "expected [x, y]"),
            ({"keypoints": [float("nan"), 2, 2]}, "not finite"),
            ({"keypoints": [10**400, 2, 2]}, "not finite"),
            ({"iscrowd": 1}, "a group of people"),
            ({"image_id": 7}, "image_id is 7"),
            ({"image_id": [0]}, "image_id is [0]"),
        ],
    )
    def test_annotations_that_are_no_person(self, tmp_path, changes, wrong):
        assert wrong in refused(read_heads, self.write(tmp_path, self.broken(**changes)))

    @pytest.mark.parametrize("content", [{}, {"images": []}, {"images": {}, "annotations": []}, 3])
    def test_another_json(self, tmp_path, content):
        assert "expected COCO keypoints" in refused(read_heads, self.write(tmp_path, content))

    @pytest.mark.parametrize("kind", ["images", "annotations"])
    def test_entries_given_twice(self, tmp_path, kind):
        content = coco({"a": [(1, 2)]})
        content[kind] *= 2
        message = refused(read_heads, self.write(tmp_path, content))
        assert f"{kind}: id 0 is missing or given twice" in message
