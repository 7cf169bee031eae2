import json
import struct
import sys
import zlib
from types import ModuleType, SimpleNamespace

import pytest

from upshot.sdk.media import plot
from upshot.sdk.media.image import Image
from upshot.sdk.media.plot import confusion_matrix
from upshot.sdk.media.png import write_png
from upshot.sdk.media.table import Table


def stored(media, key="key"):
    files: dict[str, bytes] = {}
    value = media.store(key, 3, files.__setitem__)
    return value, files[value["path"]]


def pixels(png):
    """Decode a PNG file that has no filters."""
    width, height, _, color = struct.unpack(">IIBB", png[16:26])
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[color]
    data = b""
    position = 8
    while position < len(png):
        size, kind = struct.unpack(">I4s", png[position : position + 8])
        content = png[position + 8 : position + 8 + size]
        assert struct.unpack(">I", png[position + 8 + size : position + 12 + size])[0] == zlib.crc32(kind + content)
        data += content if kind == b"IDAT" else b""
        position += 12 + size
    rows = zlib.decompress(data)
    row_bytes = width * channels + 1
    assert len(rows) == row_bytes * height
    return [list(rows[start + 1 : start + row_bytes]) for start in range(0, len(rows), row_bytes)]


# --- tables ---------------------------------------------------------------------------------------


def test_a_table():
    """A table has columns and rows, and is kept as JSON."""
    table = Table(columns=["a", "b"], data=[[1, "x"]])
    table.add_data(2.5, None)
    table.add_column("c", [True, float("nan")])

    value, content = stored(table, "my/table")

    assert json.loads(content) == {"columns": ["a", "b", "c"], "data": [[1, "x", True], [2.5, None, "NaN"]]}
    assert value["path"].startswith("media/table/my_table_3_")
    assert (value["rows"], value["columns"], value["size"]) == (2, 3, len(content))
    assert table.get_column("a") == [1, 2.5]
    assert list(table.iterrows()) == [(0, [1, "x", True]), (1, [2.5, None, table.data[1][2]])]


def test_a_row_of_another_length():
    """A row must have a value for each column."""
    table = Table(columns=["a", "b"])
    with pytest.raises(ValueError, match="2 columns: a, b"):
        table.add_data(1)
    with pytest.raises(ValueError, match="3 values"):
        Table(columns=["a", "b"], data=[[1, 2, 3]])
    with pytest.raises(ValueError, match="rows"):
        table.add_column("c", [1])
    with pytest.raises(ValueError, match="already"):
        table.add_column("a", [])
    with pytest.raises(ValueError, match="'z'"):
        table.get_column("z")


def test_default_columns():
    """Without columns, a table has W&B's."""
    assert Table().columns == ["Input", "Output", "Expected"]


def test_a_table_of_an_array_and_of_a_dataframe():
    """Arrays and DataFrames are read without NumPy and pandas."""
    array = SimpleNamespace(tolist=lambda: [[1, 2], [3, 4]])
    frame = SimpleNamespace(columns=["x", "y"], iloc=None, values=array)

    assert Table(columns=["a", "b"], data=array).data == [[1, 2], [3, 4]]
    for table in (Table(dataframe=frame), Table(data=frame)):
        assert (table.columns, table.data) == (["x", "y"], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="DataFrame"):
        Table(dataframe=[[1]])


def test_a_long_table_is_cut(capsys):
    """Of more than 10,000 rows the first are kept, and a note says so."""
    value, content = stored(Table(columns=["a"], data=[[number] for number in range(10_005)]))

    assert value["rows"] == len(json.loads(content)["data"]) == 10_000
    assert "10,005 rows" in capsys.readouterr().err


def test_a_cell_that_cannot_be_kept():
    """An object in a cell is an error that names key and column."""
    with pytest.raises(TypeError, match="key: column 'a'"):
        stored(Table(columns=["a"], data=[[object()]]))


# --- images ---------------------------------------------------------------------------------------


class Array:
    """An array as NumPy's: a type of values, and functions that change all of them."""

    def __init__(self, values, shape, dtype="float32"):
        self.values, self.shape, self.dtype = values, shape, dtype

    def min(self):
        return min(self.values)

    def max(self):
        return max(self.values)

    def __sub__(self, number):
        return Array([value - number for value in self.values], self.shape, self.dtype)

    def __truediv__(self, number):
        return Array([value / number for value in self.values], self.shape, self.dtype)

    def __mul__(self, factor):
        return Array([value * factor for value in self.values], self.shape, self.dtype)

    def clip(self, low, high):
        return Array([min(max(value, low), high) for value in self.values], self.shape, self.dtype)

    def astype(self, dtype):
        return Array([int(value) for value in self.values], self.shape, dtype)

    def tobytes(self):
        return bytes(self.values)


class Tensor:
    """A tensor as PyTorch's: channels first, and `numpy()` fails if it requires a gradient."""

    dtype = "torch.float32"

    def __init__(self, values, shape):
        self.values, self.shape = values, shape

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        raise RuntimeError("call detach() first")

    def reshape(self, shape):
        return Tensor(self.values, tuple(shape))

    def permute(self, *order):
        assert order == (1, 2, 0)
        channels, height, width = self.shape
        plane = height * width
        values = [self.values[c * plane + i] for i in range(plane) for c in range(channels)]
        return Tensor(values, (height, width, channels))

    def tolist(self):
        return self.values


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([[0, 255], [7, 300]], [[0, 255], [7, 255]]),
        ([[0.0, 0.5], [1.0, 0.25]], [[0, 127], [255, 63]]),
        ([[True, False]], [[255, 0]]),
        ([[[1, 2, 3], [4, 5, 6]]], [[1, 2, 3, 4, 5, 6]]),
        (Array([0, 128, 255, 1], (2, 2), "uint8"), [[0, 128], [255, 1]]),
        (Array([0.0, 1.0], (1, 2)), [[0, 255]]),
        (Array([300.5, 7.0, 8.9], (1, 3)), [[255, 7, 8]]),
        (Array([-2.0, 2.0, 0.0], (1, 3)), [[0, 255, 127]]),
        ([[-1, 3]], [[0, 255]]),
        ([[float("nan"), float("inf"), -1.0]], [[0, 255, 0]]),
        (Array([1, 2, 3, 4], (1, 1, 4), "uint8"), [[1, 2, 3, 4]]),
        (Tensor([0.0, 1.0, 0.5, 0.0, 1.0, 1.0], (3, 1, 2)), [[0, 127, 255, 255, 0, 255]]),
        (Tensor([0.0, 1.0], (1, 1, 2)), [[0, 255]]),
    ],
    ids=[
        "lists",
        "brightness",
        "bool",
        "rgb",
        "uint8",
        "float",
        "clipped",
        "negative",
        "negative lists",
        "nan",
        "rgba",
        "channels first",
        "one channel",
    ],
)
def test_arrays(data, expected):
    """An array becomes a PNG file with its values."""
    image = Image(data)

    value, content = stored(image)

    assert pixels(content) == expected
    assert (
        (value["height"], value["width"]) == (image.height, image.width) == struct.unpack(">II", content[16:24])[::-1]
    )
    assert value["path"].endswith(".png")


def test_arrays_as_they_are():
    """With `normalize=False`, brightnesses and negative values are nothing special."""
    assert pixels(stored(Image([[0.5, 1.0], [-1.0, 300.0]], normalize=False))[1]) == [[0, 1], [0, 255]]
    assert pixels(stored(Image(Array([-1.0, 8.0], (1, 2)), normalize=False))[1]) == [[0, 8]]


@pytest.mark.parametrize(
    "data",
    [[], [[]], [1, 2], [[[[1, 2]] * 2] * 2] * 2, [[1, 2], [3]], "no.png", object(), [["a"]], [[[1, 2, 3, 4, 5]]]],
    ids=lambda data: type(data).__name__,
)
def test_what_is_no_image(data):
    """Other data is an error."""
    with pytest.raises(ValueError, match="Image"):
        Image(data)


def test_files(tmp_path):
    """A PNG file is kept as it is; another format too, because nothing here can convert it."""
    png = write_png(bytes(6), width=2, height=1, channels=3)
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "b.JPG").write_bytes(b"\xff\xd8 a photo")

    value, content = stored(Image(tmp_path / "a.png", caption="A"))
    assert (content, value["width"], value["height"], value["caption"]) == (png, 2, 1, "A")
    value, content = stored(Image(str(tmp_path / "b.JPG")))
    assert content == b"\xff\xd8 a photo"
    assert value["path"].endswith(".jpg")


def test_images_of_pillow(tmp_path, monkeypatch):
    """An image of Pillow saves itself, and converts files of other formats if the program has loaded Pillow."""

    class Picture:
        mode = "RGB"

        def convert(self, mode):
            picture = Picture()
            picture.mode = mode
            return picture

        def save(self, file, format):  # noqa: A002 - as Pillow's
            file.write(f"{self.mode} {format}".encode())

    (tmp_path / "b.jpg").write_bytes(b"a photo")

    assert stored(Image(Picture()))[1] == b"RGB PNG"
    assert stored(Image(Picture(), "L"))[1] == b"L PNG"
    pillow = ModuleType("PIL.Image")
    monkeypatch.setattr(pillow, "open", lambda file: Picture(), raising=False)
    monkeypatch.setitem(sys.modules, "PIL.Image", pillow)
    assert stored(Image(tmp_path / "b.jpg"))[1] == b"RGB PNG"


# --- confusion matrices ---------------------------------------------------------------------------


def test_a_confusion_matrix():
    """Predictions are counted by their class, from labels or from probabilities."""
    by_label = confusion_matrix(y_true=[0, 1, 1, 2], preds=[0, 1, 2, 2], class_names=["a", "b", "c"])
    by_probability = confusion_matrix([[0.9, 0.1], [0.4, 0.6]], SimpleNamespace(tolist=lambda: [0, 0]))

    assert by_label.counts == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert by_probability.counts == [[1, 1], [0, 0]]
    assert by_probability.class_names == ["Class_1", "Class_2"]
    value, content = stored(by_label)
    assert json.loads(content)["class_names"] == ["a", "b", "c"]
    assert value["classes"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"y_true": [0]},
        {"y_true": [0], "preds": [0], "probs": [[1]]},
        {"y_true": [0], "preds": [0, 1]},
        {"y_true": [0], "preds": [3], "class_names": ["a"]},
        {"preds": [0]},
        {"y_true": 5, "preds": [1]},
    ],
    ids=repr,
)
def test_confusion_matrices_that_are_wrong(arguments):
    """Missing, contradicting and unequal arguments are errors."""
    with pytest.raises(ValueError, match="confusion_matrix"):
        confusion_matrix(**arguments)


def test_other_charts():
    """W&B's other charts do not exist, and the error names what to use."""
    assert not hasattr(plot, "line_series")
    with pytest.raises(AttributeError, match="Table"):
        _ = plot.roc_curve
