"""The operator's file: which engines there are, which queues, what each gives to a job and what it allows."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field

from upshot.automations.parser.diagnostics import Diagnostic, Diagnostics, kind_of
from upshot.automations.parser.document import Document, Invalid, YamlMapping, YamlSequence, decode, read_documents
from upshot.automations.parser.model_diagnostics import check_record, line_at
from upshot.automations.sandbox import nearest
from upshot.backends.catalog import GROUP as BACKENDS
from upshot.domain.job import Network, Pull
from upshot.errors import ConfigError
from upshot.schema.action_inputs import ActionInputs, Text, is_template, rule, wrong
from upshot.schema.launch_inputs import (
    Count,
    Flag,
    Grace,
    JobInputs,
    Name,
    NetworkName,
    Priority,
    PullName,
    ResourcesInputs,
    Timeout,
    judge_source,
)
from upshot.schema.queues import (
    ALL_GPUS,
    DEFAULT_PER_MACHINE,
    DEFAULT_TIMEOUT_CEILING_SECONDS,
    DOCKER,
    KUBERNETES,
    PROCESS,
    BackendSettings,
    JobOptions,
    JobsConfig,
    MountRule,
    QueueConfig,
    QueueLimits,
)
from upshot.settings import Settings

FILE_NAME = "jobs.yaml"  #: in the data folder, where no other file is named
BUILT_IN_BACKENDS = (DOCKER, KUBERNETES, PROCESS)
EVENTS = "events"  #: among what a worker takes, no queue of jobs


# --- what it says, as records ---------------------------------------------------------------------


def _judge_allowed_mount(text: str) -> str | None:
    return judge_source(text.removesuffix(":rw").removesuffix(":ro"))


def _mapping(what: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(f"must be a mapping {what}, and this is {kind_of(value)}")
        return value

    return BeforeValidator(check)


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        raise wrong(f"is one text, and must be a list; write [{value}]")
    return value


def _as_choice(value: Any) -> Any:
    if value == []:
        raise wrong("is an empty list, so nothing would be allowed; name one, or leave the key out")
    return _as_list(value)


def _listed(default: tuple[str, ...]) -> Any:
    return Field(default_factory=lambda: list(default))


class _MachineForm(ActionInputs):
    parallel: Count | None = None


class _LimitsSchema(ActionInputs):
    resources: ResourcesInputs = ResourcesInputs()
    timeout: Timeout = DEFAULT_TIMEOUT_CEILING_SECONDS
    grace: Grace | None = None
    networks: Annotated[list[NetworkName], BeforeValidator(_as_choice)] = _listed(("none", "bridge"))
    mounts: Annotated[list[Annotated[str, rule(_judge_allowed_mount)]], BeforeValidator(_as_list)] = _listed(())
    privileged: Flag = False
    images: Annotated[list[Text], BeforeValidator(_as_list)] | None = None
    non_root: Flag = False
    priority: Priority | None = None
    pull: Annotated[list[PullName], BeforeValidator(_as_choice)] = _listed(tuple(Pull))
    backends: Annotated[list[Name], BeforeValidator(_as_list)] = _listed(())
    kubernetes: Annotated[list[Text], BeforeValidator(_as_list)] | None = None

    def ceilings(self) -> QueueLimits:
        """As the rules have it."""
        resources = self.resources
        return QueueLimits(
            cpus=resources.cpus,
            memory_bytes=resources.memory,
            gpus=None if resources.gpus == ALL_GPUS else resources.gpus,
            shm_bytes=resources.shm,
            pids=resources.pids,
            timeout_seconds=self.timeout,
            grace_seconds=self.grace,
            networks=frozenset(map(Network, self.networks)),
            mounts=tuple(map(_mount_rule, self.mounts)),
            privileged=self.privileged,
            images=None if self.images is None else tuple(self.images),
            non_root=self.non_root,
            priority=self.priority,
            pull=frozenset(map(Pull, self.pull)),
            backends=frozenset(self.backends),
            options=None if self.kubernetes is None else frozenset(self.kubernetes),
        )


def _mount_rule(text: str) -> MountRule:
    source, _, mode = text.rpartition(":") if text.endswith((":rw", ":ro")) else (text, "", "ro")
    return MountRule(posixpath.normpath(source) if source.startswith("/") else source, writable=mode == "rw")


class _QueueForm(ActionInputs):
    description: str = ""
    concurrency: Count | None = None
    per_machine: Count | None = None
    backend: Name = DOCKER
    defaults: JobInputs = JobInputs()
    ceilings: _LimitsSchema = _LimitsSchema()


class _JobsForm(ActionInputs):
    machine: _MachineForm = _MachineForm()
    backends: Annotated[Mapping[Name, Any], _mapping("of names and engines")] = Field(default_factory=dict)
    queues: Annotated[Mapping[Name, Any], _mapping("of names and queues")] = Field(default_factory=dict)


#: Of a queue that cannot be read: automations that use it are not blamed for it.
_OPEN = QueueLimits(
    timeout_seconds=None,
    networks=frozenset(Network),
    mounts=(MountRule("/", writable=True),),
    privileged=True,
)


# --- read -----------------------------------------------------------------------------------------


def jobs_file_of(settings: Settings) -> Path | None:
    """The operator's file: the one that the settings name, or the data folder's where there is one."""
    if settings.jobs_file is not None:
        return settings.jobs_file
    in_data = settings.data / FILE_NAME
    return in_data if in_data.exists() else None


def read_queue_book(settings: Settings) -> JobsConfig:
    """
    All queues and backends of this installation.

    Raises:
        ConfigError: The operator's file is not there, or says something that cannot be meant; every mistake.
    """
    path = jobs_file_of(settings)
    if path is None:
        return JobsConfig()
    book, errors = load_queue_book(path)
    if errors:
        raise ConfigError("\n".join(map(str, errors)))
    return book


def load_queue_book(path: Path) -> tuple[JobsConfig, tuple[Diagnostic, ...]]:
    """What the file says, and all that is wrong with it; where something is, the queues are not to be used."""
    findings = Diagnostics(path.as_posix())
    block = _only_block(path, findings)
    book = JobsConfig() if block is None else _book(block, findings)
    return book, findings.errors


def _only_block(path: Path, findings: Diagnostics) -> YamlMapping | None:
    try:
        text = decode(path.read_bytes(), findings.add)
    except FileNotFoundError:
        findings.add(None, "there is no such file; UPSHOT_JOBS_FILE names the operator's file on queues of jobs")
        return None
    except OSError as error:
        findings.add(None, f"the file cannot be read: {error}")
        return None
    documents = [] if text is None else read_documents(text, findings.add)
    if findings.count:
        return None
    return _block_of(documents, findings)


def _block_of(documents: list[Document], findings: Diagnostics) -> YamlMapping | None:
    if len(documents) != 1 or not isinstance(documents[0].value, YamlMapping):
        line = documents[-1].line if documents else None
        this = kind_of(documents[0].value if documents else None)
        what = f"here are {len(documents)} documents" if len(documents) > 1 else f"this is {this}"
        findings.add(line, f"the file is one mapping with `machine`, `backends` and `queues`, and {what}")
        return None
    return documents[0].value


def _book(block: YamlMapping, findings: Diagnostics) -> JobsConfig:
    """Every queue is read on its own, so that a mistake in one does not hide those of another."""
    for place, line in _templates(block.get("queues"), ("queues",), block.line):  # a backend may have its own
        findings.add(line, f"{place}: templates are filled in in automations only; write the value")
    form = check_record(_JobsForm, block, block.line, findings, holder="the file", root="", rendered=True)
    if not isinstance(form, _JobsForm):
        form = _JobsForm()
    backends = {DOCKER: BackendSettings(DOCKER), **_backends(block, findings)}
    book = JobsConfig(form.machine.parallel, backends, source=findings.path)
    queues = dict(_queues(block, book, findings))
    return replace(book, queues=queues) if queues else book


def _templates(value: Any, place: tuple[str, ...], line: int) -> Iterator[tuple[str, int]]:
    members: Iterator[tuple[str, Any, int]]
    if isinstance(value, YamlMapping):
        members = ((key, value[key], value.value_lines[key]) for key in value)
    elif isinstance(value, YamlSequence):
        members = ((str(number), value[number], value.lines[number]) for number in range(len(value)))
    else:
        if is_template(value) and not isinstance(value, Invalid):
            yield ".".join(place), line
        return
    for key, member, below in members:
        yield from _templates(member, (*place, key), below)


def _members(block: YamlMapping, key: str, findings: Diagnostics) -> Iterator[tuple[str, YamlMapping, int]]:
    """Name, settings and line of what stands under a key."""
    holder = block.get(key)
    if not isinstance(holder, YamlMapping):
        return  # reported, or there is none
    for name, settings in holder.items():
        line = holder.key_lines[name]
        if settings is None:
            yield name, YamlMapping(line), line
        elif isinstance(settings, YamlMapping):
            yield name, settings, line
        elif not isinstance(settings, Invalid):
            findings.add(line, f"{key}.{name}: should be a mapping, and this is {kind_of(settings)}")


def _backends(block: YamlMapping, findings: Diagnostics) -> dict[str, BackendSettings]:
    backends = {}
    for name, settings, line in _members(block, "backends", findings):
        uses = findings.text(settings, "uses")
        if uses is None:
            uses = name
            if name not in BUILT_IN_BACKENDS and "uses" not in settings:
                findings.add(line, f"backends.{name}: `uses` is missing; there is {', '.join(_known_backends())}")
        elif uses not in (known := _known_backends()):
            guess = nearest(uses, known) or f"; there is {', '.join(known)}"
            findings.add(settings.value_lines["uses"], f"backends.{name}.uses: unknown backend {uses!r}{guess}")
        options = {key: value for key, value in settings.items() if key != "uses"}
        backends[name] = BackendSettings(uses, orjson.loads(orjson.dumps(options)), f"{findings.path}:{line}")
    return backends


def _known_backends() -> tuple[str, ...]:
    return (*BUILT_IN_BACKENDS, *sorted(point.name for point in entry_points(group=BACKENDS)))


def _queues(block: YamlMapping, book: JobsConfig, findings: Diagnostics) -> Iterator[tuple[str, QueueConfig]]:
    for name, settings, line in _members(block, "queues", findings):
        place = f"queues.{name}"
        if name == EVENTS:
            findings.add(line, f"{place}: `{EVENTS}` is what a worker takes that answers events; choose another name")
        form = check_record(_QueueForm, settings, line, findings, holder="a queue", root=place, rendered=True)
        if not isinstance(form, _QueueForm):
            yield name, QueueConfig(name, ceilings=_OPEN)
            continue
        ceilings_line = settings.key_lines.get("ceilings", line)
        rules = QueueConfig(
            name=name,
            concurrency=form.concurrency,
            per_machine=form.per_machine or (None if form.concurrency else DEFAULT_PER_MACHINE),
            backend=form.backend,
            defaults=form.defaults.asked(rendered=True),
            priority=form.defaults.priority or 0,
            ceilings=form.ceilings.ceilings(),
            description=form.description,
            source=f"{findings.path}:{ceilings_line}",
        )
        for dotted, finding in _contradictions(rules, book):
            parts = dotted.split(".")
            findings.add(line_at(settings, parts, line), f"{place}.{dotted}: {finding}")
        yield name, rules


def _contradictions(rules: QueueConfig, book: JobsConfig) -> Iterator[tuple[str, str]]:
    """What cannot be meant together: an engine that there is not, a default above its ceiling."""
    for place, name in (("backend", rules.backend), *(("ceilings.backends", one) for one in rules.ceilings.backends)):
        if unknown := book.unknown_backend(name):
            yield place, unknown
    alone = replace(book, queues={rules.name: rules})
    spec = alone.complete(JobOptions(), rules.name)
    objections = (
        *alone.objections_by_place(spec, rules.name),
        *alone.choice_objections(rules.name, rules.backend, rules.priority),
    )
    for place, finding in objections:
        if place != "user" or rules.defaults.user is not None:  # an author can still name one
            yield f"defaults.{place}", finding.partition(" (")[0]
