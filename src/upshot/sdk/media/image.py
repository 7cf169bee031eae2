"""Images, kept as PNG. Neither Pillow nor NumPy nor a framework is imported."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from typing import Any

from typing_extensions import override

from upshot.sdk.connection import say_once
from upshot.sdk.media.media_file import AddFile, Media, media_path
from upshot.sdk.media.png import size_of_png, write_png
from upshot.sdk.sdk_errors import InvalidArgument

_DIMENSIONS = 3
_MAX_SIDE = 65_500  # Pillow's limit, and W&B's
_CHANNELS = (1, 2, 3, 4)


class Image(Media):
    """
    An image.

    Args:
        data_or_path: A path, an array or a tensor (height, width and channels; of a PyTorch tensor, channels first),
            an image of Pillow, or a figure of matplotlib. Floating-point values from 0 to 1 are brightnesses. If some
            values are negative, the least is black and the greatest white. Other values are taken as they are, from
            0 to 255.
        mode: Has no effect, except with an image of Pillow: it is converted to this mode.
        caption: A text for people.
        grouping: Has no effect.
        classes: Has no effect.
        boxes: Not kept.
        masks: Not kept.
        file_type: Has no effect: images are kept as PNG.
        normalize: Whether negative values, and brightnesses, are treated so. Otherwise all values are taken as they
            are.

    Raises:
        ValueError: There is no such file, or the array is not an image.
    """

    def __init__(
        self,
        data_or_path: Any,
        mode: str | None = None,
        caption: str | None = None,
        grouping: int | None = None,
        classes: Any = None,
        boxes: Any = None,
        masks: Any = None,
        file_type: str | None = None,
        normalize: bool = True,
    ) -> None:
        if boxes or masks:
            say_once("Image: boxes and masks are not kept")
        self._content: bytes
        self.caption = caption
        self.suffix = ".png"
        self.width: int | None = None
        self.height: int | None = None
        if isinstance(data_or_path, Image):
            self._content = data_or_path._content  # noqa: SLF001 - of the same class
            self.suffix = data_or_path.suffix
        elif isinstance(data_or_path, str | os.PathLike):
            self._content = self._read_file(Path(data_or_path))
        elif callable(getattr(data_or_path, "savefig", None)):
            self._content = figure_as_png(data_or_path)
        elif callable(getattr(data_or_path, "save", None)) and hasattr(data_or_path, "mode"):  # an image of Pillow
            self._content = _pillow_as_png(data_or_path, mode)
        else:
            self._content = _array_as_png(data_or_path, normalize=normalize)
        size = size_of_png(self._content)
        if size is not None:
            self.width, self.height = size

    def __repr__(self) -> str:
        return f"<Image {self.width}x{self.height}>"

    def _read_file(self, path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidArgument(f"Image: {path} cannot be read: {error.strerror or error}") from error
        if size_of_png(content) is not None:
            return content
        pillow = sys.modules.get("PIL.Image")
        if pillow is not None:
            try:
                return _pillow_as_png(pillow.open(io.BytesIO(content)), None)
            except OSError as error:
                raise InvalidArgument(f"Image: {path} is not an image: {error}") from error
        self.suffix = path.suffix.lower() or ".bin"  # another format: only Pillow could convert it
        return content

    @override
    def store(self, key: str, step: int, add_file: AddFile) -> dict[str, Any]:
        path, digest = media_path("images", key, step, self._content, self.suffix)
        add_file(path, self._content)
        return {
            "_type": "image",
            "path": path,
            "digest": digest,
            "size": len(self._content),
            "width": self.width,
            "height": self.height,
            "caption": self.caption,
        }


def figure_as_png(figure: Any) -> bytes:
    """Return the PNG file of anything that has `savefig`, such as a figure of matplotlib."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _pillow_as_png(image: Any, mode: str | None) -> bytes:
    file = io.BytesIO()
    if mode is not None and image.mode != mode:
        image = image.convert(mode)
    if image.mode in {"CMYK", "YCbCr", "LAB", "HSV", "F"}:  # PNG does not have these
        image = image.convert("RGB")
    image.save(file, format="PNG")
    return file.getvalue()


def _array_as_png(array: Any, *, normalize: bool) -> bytes:
    """Return the PNG file of an array, a tensor, or nested lists."""
    if callable(getattr(array, "detach", None)):  # a tensor of PyTorch
        array = array.detach().cpu()
    if not hasattr(array, "shape"):
        array = _Lists(array)
    shape = [int(side) for side in array.shape]
    is_tensor = callable(getattr(array, "permute", None))
    while len(shape) > _DIMENSIONS and 1 in shape:
        shape.remove(1)
    if is_tensor and len(shape) == _DIMENSIONS and shape[0] in _CHANNELS:
        array = array.reshape(shape).permute(1, 2, 0)
        shape = [shape[1], shape[2], shape[0]]
    if len(shape) == _DIMENSIONS - 1:
        shape.append(1)
    if len(shape) != _DIMENSIONS or shape[2] not in _CHANNELS or not 0 < min(shape) <= max(shape) <= _MAX_SIDE:
        raise InvalidArgument(
            f"Image: an array of the shape {tuple(int(side) for side in array.shape)} is not an image; pass height and "
            "width, and optionally 1 to 4 channels"
        )
    height, width, channels = shape
    return write_png(_to_bytes(array, normalize=normalize), width=width, height=height, channels=channels)


def _to_bytes(array: Any, *, normalize: bool) -> bytes:
    """Return the values of an array as bytes, row by row."""
    kind = str(getattr(array, "dtype", ""))
    if callable(getattr(array, "astype", None)) and callable(getattr(array, "tobytes", None)):  # as NumPy's
        if "uint8" in kind:
            return bytes(array.tobytes())
        if "bool" in kind:
            return bytes((array.astype("uint8") * 255).tobytes())
        low, span, factor = _scale(
            float(array.min()), float(array.max()), is_float="float" in kind, normalize=normalize
        )
        return bytes(((array - low) / span * factor).clip(0, 255).astype("uint8").tobytes())
    values = _flatten(array.tolist())
    if "bool" in kind or all(isinstance(value, bool) for value in values):
        return bytes([255 if value else 0 for value in values])
    is_float = any(isinstance(value, float) for value in values)
    low, span, factor = _scale(min(values), max(values), is_float=is_float, normalize=normalize)
    scaled = [(value - low) / span * factor for value in values]
    return bytes([int(min(max(value, 0), 255)) if value == value else 0 for value in scaled])  # noqa: PLR0124 - NaN


def _scale(low: float, high: float, *, is_float: bool, normalize: bool) -> tuple[float, float, float]:
    """Return what to subtract from each value, to divide it by, and to multiply it with, for values from 0 to 255."""
    if normalize and low < 0 and low < high and math.isfinite(high - low):
        return low, high - low, 255.0
    if normalize and is_float and low >= 0 and high <= 1:
        return 0.0, 1.0, 255.0
    return 0.0, 1.0, 1.0


def _flatten(values: Any) -> list[Any]:
    while values and isinstance(values[0], list | tuple):
        values = [value for inner in values for value in inner]
    return list(values)


class _Lists:
    """Nested lists, with the attributes of an array."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self.shape: list[int] = []
        level = values
        while isinstance(level, list | tuple):
            self.shape.append(len(level))
            if any(isinstance(item, list | tuple) and len(item) != len(level[0]) for item in level):
                raise InvalidArgument("Image: the rows of the lists have different lengths")
            level = level[0] if level else None
        if not isinstance(level, int | float):
            raise InvalidArgument(
                f"Image: a {type(values).__name__} is not an image; pass a path, an array, an image of Pillow or a "
                "figure"
            )

    def tolist(self) -> Any:
        """Return the lists."""
        return self._values
