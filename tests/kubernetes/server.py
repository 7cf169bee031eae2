"""The stand-in's API server: the paths that we use, with their checks, over HTTP."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import web

from tests.kubernetes.node import Controllers
from tests.kubernetes.rules import change_objections, merge, objections
from tests.kubernetes.schemas import problems
from tests.kubernetes.store import BUILT_IN, JOB, POD, SECRET, Kind, Store, Thing, has_fields, now, selects

KUBE_SYSTEM_UID = "5f4dcc3b-0000-4000-8000-00000000cafe"
_MERGE, _APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


@dataclass
class Fault:
    """What goes wrong with requests."""

    what: re.Pattern[str]  #: found in `METHOD /path?query`
    times: int
    status: int = 0  #: answered; 0: as usual
    message: str = "something is wrong"
    seconds: float = 0.0  #: passed before anything is said
    cut: bool = False  #: the connection is cut in place of an answer
    event: Thing | None = None  #: said at the beginning of a watch, which ends with it


@dataclass
class Rule:
    """Of a Role."""

    groups: list[str]
    resources: list[str]
    verbs: list[str]
    names: list[str] = field(default_factory=list)

    @property
    def needs(self) -> set[Need]:
        """All that it allows."""
        each = itertools.product(self.verbs, self.groups, self.resources, self.names or [""])
        return {Need(*one) for one in each}

    def allows(self, need: Need) -> bool:
        return (
            need.group in self.groups
            and need.resource in self.resources
            and need.verb in self.verbs
            and (not self.names or need.name in self.names)
        )


@dataclass(frozen=True)
class Need:
    """What a request needs to be allowed."""

    verb: str
    group: str
    resource: str
    name: str = ""


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        assert not problems("v1/Status", self.status)


class ApiServer:
    """
    Answers.

    Args:
        store: What is there.
        controllers: See to what is changed.
        token: That requests must bear.
        rules: What its bearer may do; None: anything.
        kinds: Custom resources that the cluster knows.
    """

    def __init__(
        self, store: Store, controllers: Controllers, token: str, rules: list[Rule] | None, kinds: list[Kind]
    ) -> None:
        self.store = store
        self.controllers = controllers
        self.token = token
        self.rules = rules
        self.kinds = {(kind.version, kind.plural): kind for kind in (*BUILT_IN, *kinds)}
        self.faults: list[Fault] = []
        self.asked: list[str] = []  #: `METHOD /path?query`
        self.used: set[Need] = set()
        self.bodies: list[Any] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.asked.append(line)
        try:
            fault = self._fault(line)
            if fault is not None:
                await asyncio.sleep(fault.seconds)
                if fault.cut:
                    assert request.transport is not None
                    request.transport.close()
                if fault.status:
                    raise Refusal(fault.status, "InternalError", fault.message)
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return await self._route(request, fault)
        except Refusal as refusal:
            return web.json_response(refusal.status, status=refusal.code)

    def _fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.what.search(line):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    async def _route(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        path = request.path
        if path == "/api/v1/namespaces/kube-system":
            self._allow(Need("get", "", "namespaces", "kube-system"))
            return web.json_response({"metadata": {"name": "kube-system", "uid": KUBE_SYSTEM_UID}})
        if found := re.fullmatch(r"/apis/([^/]+/[^/]+)", path):
            return self._discover(found[1])
        found = re.fullmatch(r"/apis?/([^/]+(?:/[^/]+)?)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(/log)?", path)
        if found is None or (found[1], found[3]) not in self.kinds:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if found[2] != self.store.namespace:
            raise Refusal(404, "NotFound", f'namespaces "{found[2]}" not found')
        kind, name = self.kinds[found[1], found[3]], found[4]
        if found[5]:
            self._allow(Need("get", "", "pods/log"))
            return await self._log(request, name)
        if name is None:
            return await self._of_all(request, kind, fault)
        return await self._of_one(request, kind, name)

    def _allow(self, need: Need) -> None:
        if self.rules is not None and not any(rule.allows(need) for rule in self.rules):
            where = f'in API group "{need.group}" in the namespace "{self.store.namespace}"'
            raise Refusal(
                403, "Forbidden", f'{need.resource} is forbidden: User "upshot" cannot {need.verb} resource {where}'
            )
        self.used.add(need)

    def _discover(self, version: str) -> web.Response:
        resources = [
            {"name": kind.plural, "singularName": "", "namespaced": True, "kind": kind.kind, "verbs": ["get"]}
            for kind in self.kinds.values()
            if kind.version == version
        ]
        if not resources:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        answer = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        assert not problems("v1/APIResourceList", answer)
        return web.json_response(answer)

    # --- lists ------------------------------------------------------------------------------------

    async def _of_all(self, request: web.Request, kind: Kind, fault: Fault | None) -> web.StreamResponse:
        query = request.query
        if request.method == "POST":
            self._allow(Need("create", kind.group, kind.plural))
            return web.json_response(self._create(kind, await self._body(request)), status=201)
        if request.method != "GET":
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method")
        wanted = query.get("labelSelector", ""), query.get("fieldSelector", "")
        if query.get("watch") == "true":
            self._allow(Need("watch", kind.group, kind.plural))
            return await self._watch(request, kind, wanted[0], fault)
        self._allow(Need("list", kind.group, kind.plural))
        found = self.store.all(kind, lambda thing: selects(wanted[0], thing) and has_fields(wanted[1], thing))
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "0")) or len(found)
        more = str(start + limit) if start + limit < len(found) else ""
        metadata = {"resourceVersion": str(self.store.version), "continue": more}
        answer = {"apiVersion": kind.version, "kind": f"{kind.kind}List", "metadata": metadata}
        return web.json_response({**answer, "items": found[start : start + limit]})

    def _create(self, kind: Kind, thing: Thing) -> Thing:
        name = thing["metadata"].get("name", "")
        if self.store.get(kind, name) is not None:
            raise Refusal(409, "AlreadyExists", f'{kind.plural}.{kind.group} "{name}" already exists')
        self._check(kind, thing)
        made = self.store.add(kind, thing)
        if kind == JOB:
            self.controllers.reconcile(made)
        return made

    def _check(self, kind: Kind, thing: Thing, before: Thing | None = None) -> None:
        known = {key: value for key, value in thing.items() if key != "status"}
        found = problems(kind.key, known) or objections(kind, thing)
        if before is not None:
            found += change_objections(kind, before, thing)
        if found:
            name = thing["metadata"].get("name")
            raise Refusal(422, "Invalid", f'{kind.kind} "{name}" is invalid: {"; ".join(found)}')

    async def _body(self, request: web.Request) -> Any:
        try:
            body = json.loads(await request.read())
        except ValueError as error:
            raise Refusal(400, "BadRequest", f"the body is no JSON: {error}") from error
        self.bodies.append(body)
        return body

    async def _watch(self, request: web.Request, kind: Kind, selector: str, fault: Fault | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if fault is not None and fault.event is not None:
            await response.write(json.dumps(fault.event).encode() + b"\n")
            return response
        until = asyncio.get_running_loop().time() + float(request.query.get("timeoutSeconds", "1800"))
        bookmarks = request.query.get("allowWatchBookmarks") == "true"
        try:
            async with asyncio.timeout_at(until):
                async for event in self._events(request.query.get("resourceVersion"), kind, selector):
                    await response.write(json.dumps(event).encode() + b"\n")
        except TimeoutError:
            if bookmarks:
                thing = {"apiVersion": kind.version, "kind": kind.kind}
                bookmark = {**thing, "metadata": {"resourceVersion": str(self.store.version)}}
                await response.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        return response

    async def _events(self, version: str | None, kind: Kind, selector: str) -> AsyncIterator[Thing]:
        """What is there now, then what happens; or what has happened since a version."""
        if version is None:
            at = self.store.version
            for thing in self.store.all(kind, lambda thing: selects(selector, thing)):
                yield {"type": "ADDED", "object": copy.deepcopy(thing)}
        else:
            at = int(version)
        while True:
            for happening in [one for one in self.store.history if one.version > at]:
                at = happening.version
                if happening.kind == kind and selects(selector, happening.thing):
                    yield {"type": happening.what, "object": happening.thing}
            if at >= self.store.version:
                await self.store.change()

    # --- one --------------------------------------------------------------------------------------

    async def _of_one(self, request: web.Request, kind: Kind, name: str) -> web.Response:
        verb = {"GET": "get", "PATCH": "patch", "DELETE": "delete"}.get(request.method)
        if verb is None:
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method")
        self._allow(Need(verb, kind.group, kind.plural))
        thing = self.store.get(kind, name)
        if verb == "patch" and request.content_type == _APPLY:
            return self._apply(request, kind, name, await self._body(request))
        if thing is None:
            raise Refusal(404, "NotFound", f'{kind.plural}.{kind.group} "{name}" not found')
        if verb == "patch":
            return web.json_response(self._patch(kind, thing, request.content_type, await self._body(request)))
        if verb == "delete":
            self._delete(kind, thing, request)
            return web.json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        return web.json_response(thing)

    def _apply(self, request: web.Request, kind: Kind, name: str, body: Thing) -> web.Response:
        if "fieldManager" not in request.query:
            raise Refusal(422, "Invalid", "fieldManager: Required value: is required for apply patch")
        assert kind == SECRET, "nothing else is applied here"
        assert body["metadata"]["name"] == name
        before = self.store.get(kind, name)
        if before is None:
            self._allow(Need("create", kind.group, kind.plural))
            return web.json_response(self._create(kind, body), status=201)
        self._check(kind, body)
        before["data"] = body["data"]
        before["metadata"] |= {key: value for key, value in body["metadata"].items() if key != "name"}
        self.store.touch(kind, before)
        return web.json_response(before)

    def _patch(self, kind: Kind, thing: Thing, content_type: str, patch: Thing) -> Thing:
        if content_type != _MERGE:
            raise Refusal(415, "UnsupportedMediaType", f"{content_type} is not supported here")
        if found := problems(kind.key, patch, partial=True):
            raise Refusal(422, "Invalid", "; ".join(found))
        after = merge(thing, patch)
        self._check(kind, after, thing)
        thing.clear()
        thing.update(after)
        self.store.touch(kind, thing)
        if kind == JOB:
            self.controllers.reconcile(thing)
        return thing

    def _delete(self, kind: Kind, thing: Thing, request: web.Request) -> None:
        if kind == POD:
            grace = request.query.get("gracePeriodSeconds")
            self.controllers.delete_pod(thing, None if grace is None else float(grace))
            return
        policy = request.query.get("propagationPolicy", "Background")
        uid = thing["metadata"]["uid"]
        if policy == "Foreground" and self.store.owned_by(uid):
            thing["metadata"] |= {"deletionTimestamp": now(), "finalizers": ["foregroundDeletion"]}
            self.store.touch(kind, thing)
            asyncio.get_running_loop().create_task(self._drop_after(kind, thing))
        else:
            self.store.drop(kind, thing)
        if policy != "Orphan":
            self.controllers.collect(uid)

    async def _drop_after(self, kind: Kind, thing: Thing) -> None:
        while self.store.owned_by(thing["metadata"]["uid"]):
            await self.store.change()
        self.store.drop(kind, thing)

    # --- logs -------------------------------------------------------------------------------------

    async def _log(self, request: web.Request, name: str) -> web.StreamResponse:
        query, pod = request.query, self.store.get(POD, name)
        if pod is None:
            raise Refusal(404, "NotFound", f'pods "{name}" not found')
        names = [one["name"] for one in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"])]
        container = query.get("container") or names[0]
        if "container" not in query and len(names) > 1:
            raise Refusal(400, "BadRequest", f"a container name must be specified for pod {name}")
        if container not in names:
            raise Refusal(400, "BadRequest", f"container {container} is not valid for pod {name}")
        found = self.controllers.pods[pod["metadata"]["uid"]].containers.get(container)
        if found is None:
            message = f'container "{container}" in pod "{name}" is waiting to start: PodInitializing'
            raise Refusal(400, "BadRequest", message)
        # The API server hands the time on to the kubelet in whole seconds.
        since = (
            datetime.fromisoformat(query["sinceTime"]).replace(microsecond=0).timestamp() if "sinceTime" in query else 0
        )
        tail = int(query["tailLines"]) if "tailLines" in query else None
        text = found.text(since=int(since) * 10**9, tail=tail, stamps=query.get("timestamps") == "true")
        if "limitBytes" in query:
            text = text[: int(query["limitBytes"])]
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        for start in range(0, len(text), 65536):
            await response.write(text[start : start + 65536])
        return response
