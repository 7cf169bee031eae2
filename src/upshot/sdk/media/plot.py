"""Charts: `upshot.plot.confusion_matrix`. W&B's other charts do not exist, and the errors say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from upshot.sdk.media.media_file import AddFile, Media, encode, media_path, to_plain
from upshot.sdk.sdk_errors import InvalidArgument


class ConfusionMatrix(Media):
    """
    How often each class was taken for each class.

    Args:
        class_names: Names of the classes.
        counts: For each actual class, how often each class was predicted.
        title: A title for people.
    """

    def __init__(self, class_names: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> None:
        self.class_names = list(class_names)
        self.counts = [list(row) for row in counts]
        self.title = title

    def __repr__(self) -> str:
        return f"<ConfusionMatrix of {len(self.class_names)} classes>"

    @override
    def store(self, key: str, step: int, add_file: AddFile) -> dict[str, Any]:
        content = encode({"class_names": self.class_names, "counts": self.counts, "title": self.title})
        path, digest = media_path("confusion-matrix", key, step, content, ".json")
        add_file(path, content)
        return {
            "_type": "confusion-matrix",
            "path": path,
            "digest": digest,
            "size": len(content),
            "classes": len(self.class_names),
            "title": self.title,
        }


def confusion_matrix(
    probs: Any = None,
    y_true: Any = None,
    preds: Any = None,
    class_names: Sequence[str] | None = None,
    title: str = "Confusion Matrix Curve",
    split_table: bool = False,
) -> ConfusionMatrix:
    """
    Count how often each class was taken for each class. Log the result with `run.log`.

    Args:
        probs: For each example, the probability of each class. The class with the highest one is the prediction.
        y_true: For each example, the number of its class.
        preds: For each example, the number of the predicted class; in place of `probs`.
        class_names: Names of the classes, by their number. By default, `Class_1`, `Class_2`, …
        title: A title for people.
        split_table: Has no effect.

    Raises:
        ValueError: The lengths differ, both or none of `probs` and `preds` are given, or a class has no name.
    """
    if (probs is None) == (preds is None):
        raise InvalidArgument("confusion_matrix: pass preds or probs, and not both")
    if y_true is None:
        raise InvalidArgument("confusion_matrix: y_true is missing; pass the number of the class of each example")
    actual = _to_list(y_true, "y_true")
    if probs is not None:
        predicted = [max(range(len(row)), key=row.__getitem__) for row in _to_list(probs, "probs")]
    else:
        predicted = _to_list(preds, "preds")
    if len(actual) != len(predicted):
        raise InvalidArgument(f"confusion_matrix: {len(predicted)} predictions for {len(actual)} examples")
    if class_names is None:
        classes = sorted({*actual, *predicted})
        names = [f"Class_{number}" for number in range(1, len(classes) + 1)]
    else:
        names = [str(name) for name in class_names]
        classes = list(range(len(names)))
    positions = {name: index for index, name in enumerate(classes)}
    counts = [[0] * len(names) for _ in names]
    for was, said in zip(actual, predicted, strict=True):
        if was not in positions or said not in positions:
            unknown = was if was not in positions else said
            raise InvalidArgument(
                f"confusion_matrix: class {unknown!r} has no name; class_names has {len(names)}, numbered from 0"
            )
        counts[positions[was]][positions[said]] += 1
    return ConfusionMatrix(names, counts, title)


def _to_list(values: Any, what: str) -> list[Any]:
    """Return the values of a list, an array or a tensor."""
    if callable(getattr(values, "tolist", None)):
        values = values.tolist()
    try:
        return [to_plain(value) for value in values]
    except TypeError as error:
        raise InvalidArgument(f"confusion_matrix: {what}: pass a list of numbers, or an array") from error


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"upshot.plot has no {name!r}; log a Table, or a figure of matplotlib")
