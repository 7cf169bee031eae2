"""The fake API server: the paths that Upshot uses, with their checks, over HTTP."""

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

from tests.fakes.kubernetes.node import Controllers
from tests.fakes.kubernetes.rules import change_violations, merge, violations
from tests.fakes.kubernetes.schemas import schema_errors
from tests.fakes.kubernetes.store import (
    BUILT_IN,
    JOB,
    POD,
    SECRET,
    Kind,
    Manifest,
    Store,
    matches_fields,
    matches_labels,
    now,
)

KUBE_SYSTEM_UID = "5f4dcc3b-0000-4000-8000-00000000cafe"
_MERGE_PATCH, _APPLY_PATCH = "application/merge-patch+json", "application/apply-patch+yaml"


@dataclass
class Fault:
    """A fault of some requests."""

    pattern: re.Pattern[str]  #: found in `METHOD /path?query`
    times: int
    status: int = 0  #: status of the response; 0: the usual response
    message: str = "something is wrong"
    seconds: float = 0.0  #: delay before the response
    disconnect: bool = False  #: the connection is closed without a response
    event: Manifest | None = None  #: the only event of a watch


@dataclass(frozen=True)
class Permission:
    """A permission that a request needs."""

    verb: str
    group: str
    resource: str
    name: str = ""


@dataclass
class Rule:
    """A rule of a Role."""

    groups: list[str]
    resources: list[str]
    verbs: list[str]
    names: list[str] = field(default_factory=list)

    @property
    def permissions(self) -> set[Permission]:
        """All permissions that the rule grants."""
        combinations = itertools.product(self.verbs, self.groups, self.resources, self.names or [""])
        return {Permission(*combination) for combination in combinations}

    def grants(self, permission: Permission) -> bool:
        """Return whether the rule grants a permission."""
        return (
            permission.group in self.groups
            and permission.resource in self.resources
            and permission.verb in self.verbs
            and (not self.names or permission.name in self.names)
        )


class Rejected(Exception):
    """The API server rejects a request, with a Status object."""

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
        assert not schema_errors("v1/Status", self.status)


class ApiServer:
    """
    Handles the requests.

    Args:
        store: The objects.
        controllers: Act on changed objects.
        token: Bearer token of the only account.
        rules: Permissions of the account; None: all.
        kinds: Custom resources of the cluster.
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
        self.requests: list[str] = []  #: `METHOD /path?query`
        self.used_permissions: set[Permission] = set()

    def app(self) -> web.Application:
        """Return the server's application."""
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        line = f"{request.method} {request.path_qs}"
        self.requests.append(line)
        try:
            fault = self._next_fault(line)
            if fault is not None:
                await asyncio.sleep(fault.seconds)
                if fault.disconnect:
                    assert request.transport is not None
                    request.transport.close()
                if fault.status:
                    raise Rejected(fault.status, "InternalError", fault.message)
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise Rejected(401, "Unauthorized", "Unauthorized")
            return await self.route(request, fault)
        except Rejected as error:
            return web.json_response(error.status, status=error.code)

    def _next_fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.pattern.search(line):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    async def route(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """Find the handler for a path."""
        path = request.path
        if path == "/api/v1/namespaces/kube-system":
            self._require(Permission("get", "", "namespaces", "kube-system"))
            return web.json_response({"metadata": {"name": "kube-system", "uid": KUBE_SYSTEM_UID}})
        if found := re.fullmatch(r"/apis/([^/]+/[^/]+)", path):
            return self._list_resources(found[1])
        found = re.fullmatch(r"/apis?/([^/]+(?:/[^/]+)?)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(/log)?", path)
        if found is None or (found[1], found[3]) not in self.kinds:
            raise Rejected(404, "NotFound", "the server could not find the requested resource")
        if found[2] != self.store.namespace:
            raise Rejected(404, "NotFound", f'namespaces "{found[2]}" not found')
        kind, name = self.kinds[found[1], found[3]], found[4]
        if found[5]:
            self._require(Permission("get", "", "pods/log"))
            return await self._read_log(request, name)
        if name is None:
            return await self._handle_collection(request, kind, fault)
        return await self._handle_item(request, kind, name)

    def _require(self, permission: Permission) -> None:
        if self.rules is not None and not any(rule.grants(permission) for rule in self.rules):
            where = f'in API group "{permission.group}" in the namespace "{self.store.namespace}"'
            message = f'{permission.resource} is forbidden: User "upshot" cannot {permission.verb} resource {where}'
            raise Rejected(403, "Forbidden", message)
        self.used_permissions.add(permission)

    def _list_resources(self, version: str) -> web.Response:
        resources = [
            {"name": kind.plural, "singularName": "", "namespaced": True, "kind": kind.kind, "verbs": ["get"]}
            for kind in self.kinds.values()
            if kind.version == version
        ]
        if not resources:
            raise Rejected(404, "NotFound", "the server could not find the requested resource")
        body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        assert not schema_errors("v1/APIResourceList", body)
        return web.json_response(body)

    # --- collections ------------------------------------------------------------------------------

    async def _handle_collection(self, request: web.Request, kind: Kind, fault: Fault | None) -> web.StreamResponse:
        query = request.query
        if request.method == "POST":
            self._require(Permission("create", kind.group, kind.plural))
            return web.json_response(self._create(kind, await self._read_body(request)), status=201)
        if request.method != "GET":
            raise Rejected(405, "MethodNotAllowed", "the server does not allow this method")
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        if query.get("watch") == "true":
            self._require(Permission("watch", kind.group, kind.plural))
            return await self._watch(request, kind, labels, fault)
        self._require(Permission("list", kind.group, kind.plural))
        items = self.store.find(kind, lambda item: matches_labels(labels, item) and matches_fields(fields, item))
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "0")) or len(items)
        next_page = str(start + limit) if start + limit < len(items) else ""
        metadata = {"resourceVersion": str(self.store.version), "continue": next_page}
        page = {"apiVersion": kind.version, "kind": f"{kind.kind}List", "metadata": metadata}
        return web.json_response({**page, "items": items[start : start + limit]})

    def _create(self, kind: Kind, item: Manifest) -> Manifest:
        name = item["metadata"].get("name", "")
        if self.store.get(kind, name) is not None:
            raise Rejected(409, "AlreadyExists", f'{kind.plural}.{kind.group} "{name}" already exists')
        self._validate(kind, item)
        created = self.store.create(kind, item)
        if kind == JOB:
            self.controllers.reconcile(created)
        return created

    def _validate(self, kind: Kind, item: Manifest, before: Manifest | None = None) -> None:
        without_status = {key: value for key, value in item.items() if key != "status"}
        found = schema_errors(kind.key, without_status) or violations(kind, item)
        if before is not None:
            found += change_violations(kind, before, item)
        if found:
            name = item["metadata"].get("name")
            raise Rejected(422, "Invalid", f'{kind.kind} "{name}" is invalid: {"; ".join(found)}')

    async def _read_body(self, request: web.Request) -> Any:
        try:
            return json.loads(await request.read())
        except ValueError as error:
            raise Rejected(400, "BadRequest", f"the body is not JSON: {error}") from error

    async def _watch(self, request: web.Request, kind: Kind, selector: str, fault: Fault | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if fault is not None and fault.event is not None:
            await response.write(json.dumps(fault.event).encode() + b"\n")
            return response
        deadline = asyncio.get_running_loop().time() + float(request.query.get("timeoutSeconds", "1800"))
        try:
            async with asyncio.timeout_at(deadline):
                async for event in self._events(request.query.get("resourceVersion"), kind, selector):
                    await response.write(json.dumps(event).encode() + b"\n")
        except TimeoutError:
            if request.query.get("allowWatchBookmarks") == "true":
                metadata = {"resourceVersion": str(self.store.version)}
                bookmark = {"apiVersion": kind.version, "kind": kind.kind, "metadata": metadata}
                await response.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        return response

    async def _events(self, version: str | None, kind: Kind, selector: str) -> AsyncIterator[Manifest]:
        """Yield all changes since a version; without a version, the current objects and then all changes."""
        if version is None:
            seen_version = self.store.version
            for item in self.store.find(kind, lambda item: matches_labels(selector, item)):
                yield {"type": "ADDED", "object": copy.deepcopy(item)}
        else:
            seen_version = int(version)
        while True:
            for event in [event for event in self.store.history if event.version > seen_version]:
                seen_version = event.version
                if event.kind == kind and matches_labels(selector, event.item):
                    yield {"type": event.type, "object": event.item}
            if seen_version >= self.store.version:
                await self.store.wait_for_change()

    # --- single objects ---------------------------------------------------------------------------

    async def _handle_item(self, request: web.Request, kind: Kind, name: str) -> web.Response:
        verb = {"GET": "get", "PATCH": "patch", "DELETE": "delete"}.get(request.method)
        if verb is None:
            raise Rejected(405, "MethodNotAllowed", "the server does not allow this method")
        self._require(Permission(verb, kind.group, kind.plural))
        item = self.store.get(kind, name)
        if verb == "patch" and request.content_type == _APPLY_PATCH:
            return self._apply(request, kind, name, await self._read_body(request))
        if item is None:
            raise Rejected(404, "NotFound", f'{kind.plural}.{kind.group} "{name}" not found')
        if verb == "patch":
            return web.json_response(self._patch(kind, item, request.content_type, await self._read_body(request)))
        if verb == "delete":
            self._delete(kind, item, request)
            return web.json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        return web.json_response(item)

    def _apply(self, request: web.Request, kind: Kind, name: str, body: Manifest) -> web.Response:
        if "fieldManager" not in request.query:
            raise Rejected(422, "Invalid", "fieldManager: Required value: is required for apply patch")
        assert kind == SECRET, "Upshot applies only Secrets"
        assert body["metadata"]["name"] == name
        existing = self.store.get(kind, name)
        if existing is None:
            self._require(Permission("create", kind.group, kind.plural))
            return web.json_response(self._create(kind, body), status=201)
        self._validate(kind, body)
        existing["data"] = body["data"]
        existing["metadata"] |= {key: value for key, value in body["metadata"].items() if key != "name"}
        self.store.record_change(kind, existing)
        return web.json_response(existing)

    def _patch(self, kind: Kind, item: Manifest, content_type: str, patch: Manifest) -> Manifest:
        if content_type != _MERGE_PATCH:
            raise Rejected(415, "UnsupportedMediaType", f"{content_type} is not supported here")
        if errors := schema_errors(kind.key, patch, partial=True):
            raise Rejected(422, "Invalid", "; ".join(errors))
        after = merge(item, patch)
        self._validate(kind, after, item)
        item.clear()
        item.update(after)
        self.store.record_change(kind, item)
        if kind == JOB:
            self.controllers.reconcile(item)
        return item

    def _delete(self, kind: Kind, item: Manifest, request: web.Request) -> None:
        if kind == POD:
            grace = request.query.get("gracePeriodSeconds")
            self.controllers.delete_pod(item, None if grace is None else float(grace))
            return
        policy = request.query.get("propagationPolicy", "Background")
        uid = item["metadata"]["uid"]
        if policy == "Foreground" and self.store.owned_by(uid):
            item["metadata"] |= {"deletionTimestamp": now(), "finalizers": ["foregroundDeletion"]}
            self.store.record_change(kind, item)
            asyncio.get_running_loop().create_task(self._delete_after_dependents(kind, item))
        else:
            self.store.delete(kind, item)
        if policy != "Orphan":
            self.controllers.collect_garbage(uid)

    async def _delete_after_dependents(self, kind: Kind, item: Manifest) -> None:
        while self.store.owned_by(item["metadata"]["uid"]):
            await self.store.wait_for_change()
        self.store.delete(kind, item)

    # --- logs -------------------------------------------------------------------------------------

    async def _read_log(self, request: web.Request, name: str) -> web.StreamResponse:
        query, pod = request.query, self.store.get(POD, name)
        if pod is None:
            raise Rejected(404, "NotFound", f'pods "{name}" not found')
        containers = [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
        names = [container["name"] for container in containers]
        container_name = query.get("container") or names[0]
        if "container" not in query and len(names) > 1:
            raise Rejected(400, "BadRequest", f"a container name must be specified for pod {name}")
        if container_name not in names:
            raise Rejected(400, "BadRequest", f"container {container_name} is not valid for pod {name}")
        container = self.controllers.pods[pod["metadata"]["uid"]].containers.get(container_name)
        if container is None:
            message = f'container "{container_name}" in pod "{name}" is waiting to start: PodInitializing'
            raise Rejected(400, "BadRequest", message)
        since = 0
        if "sinceTime" in query:  # the API server passes the time to the kubelet in whole seconds
            since = int(datetime.fromisoformat(query["sinceTime"]).timestamp())
        tail = int(query["tailLines"]) if "tailLines" in query else None
        text = container.read_log(since=since * 10**9, tail=tail, timestamps=query.get("timestamps") == "true")
        if "limitBytes" in query:
            text = text[: int(query["limitBytes"])]
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        for start in range(0, len(text), 65536):
            await response.write(text[start : start + 65536])
        return response
