"""Check what a run has reported about a model: score the model again, and compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from upshot.clock import SystemClock, format_time
from upshot.json_numbers import to_json_number
from upshot.sdk.sdk_errors import InvalidArgument

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact
    from upshot.sdk.public_run import PublicRun

JOB_TYPE = "evaluation"
METADATA_KEY = "evaluation"  #: of the version, under which gates read the verdict
DEFAULT_TOLERANCE = 1e-6

#: Takes the directory of the files and the configuration of the run that logged them, and returns metrics.
Score = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


class Comparison(NamedTuple):
    """One metric of an evaluation."""

    name: str
    reported: float  #: in the summary of the run that logged the version
    found: float  #: by the evaluation
    within: bool  #: they differ by at most the tolerance; never true for NaN


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The verdict on a version."""

    reference: str  #: of the version, with its number
    digest: str  #: of its content
    producer: str  #: `project/run` that logged the version and reported the metrics
    run: str  #: `project/run` of the evaluation
    passed: bool  #: all metrics are within the tolerance
    metrics: tuple[Comparison, ...]  #: by name


def evaluate(
    reference: str | Artifact,
    score: Score,
    *,
    metrics: Iterable[str] | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    project: str | None = None,
    copy_config: bool = True,
    record: bool = True,
) -> Evaluation:
    """
    Score a version again, and compare the result with what the run that logged it has reported.

    It makes a run of job type `evaluation` that uses the version and has the scores in its summary. The verdict
    becomes the version's metadata `evaluation`, which a gate reads: `require: version.metadata.evaluation.passed`.

    Args:
        reference: The version, such as `model-registry/Review Summarization:candidate`, or an artifact.
        score: Returns the metrics. It gets the directory of the version's files, and the configuration of the run that
            logged it.
        metrics: Names of the metrics to compare. By default, all that both have.
        tolerance: How far a metric may be off: absolutely, or relatively to the larger of both if that is more.
        project: Of the evaluation's run. By default, the project of the artifact.
        copy_config: Give the evaluation's run the configuration of the run that logged the version.
        record: Write the verdict into the version's metadata.

    Raises:
        ValueError: No run logged the version, a metric is missing on one side, or both have none in common.
        TypeError: `score` returned something else than numbers by name.
    """
    rules = Rules(metrics, tolerance, project, copy_config=copy_config, record=record)
    return compare_scores(reference, lambda artifact, config: score(artifact.download(), config), rules)


@dataclass(frozen=True, slots=True)
class Rules:
    """How an evaluation compares, and what it keeps. See `evaluate`."""

    metrics: Iterable[str] | None = None
    tolerance: float = DEFAULT_TOLERANCE
    project: str | None = None
    copy_config: bool = True
    record: bool = True


def compare_scores(
    reference: str | Artifact, find_scores: Callable[[Artifact, Mapping[str, Any]], object], rules: Rules
) -> Evaluation:
    """
    Do what `evaluate` does, with a function that gets the artifact itself, and need not download it.

    Raises:
        ValueError: As `evaluate`.
        TypeError: As `evaluate`.
    """
    from upshot.sdk.session import init

    if not math.isfinite(rules.tolerance) or rules.tolerance < 0:
        raise InvalidArgument(f"tolerance {rules.tolerance!r}: must be 0 or more")
    artifact = _find(reference, rules.project)
    producer = _producer(artifact)
    config = dict(producer.config)
    with init(
        project=rules.project or artifact.source_project,
        job_type=JOB_TYPE,
        config=config if rules.copy_config else None,
        reinit="create_new",
    ) as run:
        used = run.use_artifact(artifact)
        found = _numbers(find_scores(used, config))
        compared = _compare(_reported(producer), found, rules.metrics, rules.tolerance)
        for name, value in found.items():
            run.summary[name] = value
        evaluation = Evaluation(
            reference=used.qualified_name,
            digest=used.digest,
            producer=f"{producer.project}/{producer.id}",
            run=f"{run.project}/{run.id}",
            passed=all(comparison.within for comparison in compared),
            metrics=compared,
        )
        if rules.record:
            used.metadata[METADATA_KEY] = _verdict(evaluation, rules.tolerance)
            used.save()
    return evaluation


def _find(reference: str | Artifact, project: str | None) -> Artifact:
    from upshot.sdk.run import find_artifact

    return find_artifact(reference, project) if isinstance(reference, str) else reference


def _producer(artifact: Artifact) -> PublicRun:
    producer = artifact.logged_by()
    if producer is None:
        raise InvalidArgument(
            f"{artifact.qualified_name}: no run logged this version, so nobody has reported metrics to compare with; "
            "log it with run.log_artifact()"
        )
    return producer


def _reported(producer: PublicRun) -> dict[str, float]:
    return {name: number for name, value in producer.summary.items() if (number := _number(value)) is not None}


def _numbers(scores: object) -> dict[str, float]:
    if not isinstance(scores, Mapping):
        raise TypeError(f"score() must return a mapping of metrics to numbers, not a {scores.__class__.__name__}")
    found = {}
    for name, value in scores.items():
        number = _number(value)
        if number is None:
            raise TypeError(f"score() returned {name!r} as a {value.__class__.__name__}; it must be a number")
        found[str(name)] = number
    return found


def _number(value: object) -> float | None:
    """Return a number, also one that a tensor or an array without dimensions holds."""
    item = getattr(value, "item", None)
    if callable(item):
        value = item()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _compare(
    reported: Mapping[str, float], found: Mapping[str, float], metrics: Iterable[str] | None, tolerance: float
) -> tuple[Comparison, ...]:
    names = sorted(reported.keys() & found.keys()) if metrics is None else list(dict.fromkeys(metrics))
    for name in names:
        if name not in reported:
            raise InvalidArgument(f"metric {name!r}: the run that logged the version reported {_list(reported)}")
        if name not in found:
            raise InvalidArgument(f"metric {name!r}: score() returned {_list(found)}")
    if not names:
        raise InvalidArgument(
            f"nothing to compare: the run that logged the version reported {_list(reported)}, and score() returned "
            f"{_list(found)}"
        )
    return tuple(
        Comparison(
            name,
            reported[name],
            found[name],
            math.isclose(reported[name], found[name], rel_tol=tolerance, abs_tol=tolerance),
        )
        for name in names
    )


def _list(metrics: Mapping[str, float]) -> str:
    return ", ".join(sorted(metrics)[:20]) or "no metric"


def _verdict(evaluation: Evaluation, tolerance: float) -> dict[str, Any]:
    return {
        "passed": evaluation.passed,
        "metrics": {
            comparison.name: {
                "reported": to_json_number(comparison.reported),
                "found": to_json_number(comparison.found),
                "within": comparison.within,
            }
            for comparison in evaluation.metrics
        },
        "tolerance": tolerance,
        "digest": evaluation.digest,
        "producer": evaluation.producer,
        "run": evaluation.run,
        "at": format_time(SystemClock().now()),
    }
