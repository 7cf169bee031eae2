"""A client of a cluster's API server. It sends and returns plain data, and raises only Upshot's own errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes_asyncio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION
from yaml import YAMLError

from upshot import __version__
from upshot.backends.protocol import EngineUnavailable, StartRefused
from upshot.domain.job import FailureKind
from upshot.masking import cut_text

REQUEST_SECONDS = 8.0  # for one response; a method of the backend sends two or three requests, some concurrently
CONNECT_SECONDS = 5.0
PAGE_ITEMS = 500  # of a list; kubectl's page size

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML; creates the object if it does not exist

_JSON = "application/json"
_REDIRECT, _UNAUTHORIZED, _NOT_FOUND, _CONFLICT, _GONE, _TOO_MANY, _SERVER_ERROR = 300, 401, 404, 409, 410, 429, 500
_MAX_MESSAGE_CHARS = 500
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # exists if the worker runs in a pod
#: What the library raises for a file that is not a kubeconfig.
_INVALID_KUBECONFIG = (YAMLError, ValueError, LookupError, TypeError, AttributeError, AssertionError)

T = TypeVar("T")

Query = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Query
    body: Any = None
    content_type: str = _JSON
    seconds: float = REQUEST_SECONDS  #: for the whole response


class KubernetesApiError(EngineUnavailable):
    """
    The API server rejected a request. For most methods of a backend this means that the state is unknown.

    Args:
        status: HTTP status.
        reason: Machine-readable reason: AlreadyExists, Forbidden, Invalid, …
        message: The API server's message.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"Kubernetes: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def is_missing(self) -> bool:
        """Whether the object does not exist."""
        return self.status == _NOT_FOUND

    @property
    def already_exists(self) -> bool:
        """Whether an object of this name exists already."""
        return self.status == _CONFLICT and self.reason == "AlreadyExists"

    @property
    def is_expired(self) -> bool:
        """Whether the requested resource version is too old for the API server."""
        return self.status == _GONE

    def as_start_refused(self) -> StartRefused:
        """Return the error that ends a start. Another attempt would break the same rule of the cluster."""
        return StartRefused(FailureKind.REFUSED, f"Kubernetes rejected the job: {self.message}")


class KubernetesClient:
    """
    A client of one API server, with the permissions of one account.

    Args:
        kubeconfig: Path; None: the account of the worker's own pod, or the file that kubectl uses.
        context: Context in that file; None: its current context.
        namespace: None: the namespace of the pod or of the context.
    """

    def __init__(self, *, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._configured_namespace = namespace
        self._namespace = namespace or "default"
        self._client: ApiClient | None = None
        self._lock = asyncio.Lock()

    async def server(self) -> str:
        """Return the URL of the API server."""
        return str((await self._connected()).configuration.host)

    async def namespace(self) -> str:
        """Return the namespace of all jobs."""
        await self._connected()
        return self._namespace

    async def close(self) -> None:
        """Close the connection. The client connects again when it is used again."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # --- requests ---------------------------------------------------------------------------------

    async def request_json(
        self, method: str, path: str, *, query: Query | None = None, body: Any = None, content_type: str = _JSON
    ) -> Any:
        """
        Send a request and return the JSON of the response; None if the response is empty.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: Path from the root of the server.
            query: Query parameters.
            body: Sent as JSON.
            content_type: Type of the body: `MERGE_PATCH` or `APPLY_PATCH` for a patch.

        Raises:
            KubernetesApiError: The server rejected the request.
            EngineUnavailable: It did not answer, or cannot serve the request for now.
        """
        async with self._open(_Request(method, path, query or {}, body, content_type)) as response:
            data = await response.read()
            return orjson.loads(data) if data else None

    async def list_all(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Return all items of a list, page by page."""
        try:
            return await self._list_pages(path, {**query, "limit": PAGE_ITEMS})
        except KubernetesApiError as error:
            if not error.is_expired:
                raise
            return await self._list_pages(path, query)  # the list has changed too much since its first page

    async def _list_pages(self, path: str, query: Query) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        next_page: str | None = ""
        while next_page is not None:
            page = await self.request_json("GET", path, query={**query, "continue": next_page} if next_page else query)
            items += page.get("items") or []
            next_page = page.get("metadata", {}).get("continue") or None
        return items

    @asynccontextmanager
    async def stream(self, path: str, query: Query, *, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """
        Open a response for reading it in chunks as they arrive.

        Args:
            path: Path from the root of the server.
            query: Query parameters.
            seconds: Time limit for the whole response. Reading raises EngineUnavailable after it.
        """
        async with self._open(_Request("GET", path, query, seconds=seconds)) as response:
            yield response.content.iter_any()

    @asynccontextmanager
    async def _open(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and open its response. Errors while it is read are translated, too."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):  # for the headers; the body of a watch takes minutes
                response = await self._send(request)
                if response.status == _UNAUTHORIZED:
                    response.release()
                    await self._renew_credentials()
                    response = await self._send(request)
            async with response:
                if response.status >= _REDIRECT:
                    raise _error_from_response(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, OSError, orjson.JSONDecodeError) as error:
            raise EngineUnavailable(f"Kubernetes does not answer: {_describe(error)}") from error

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        client = await self._connected()
        response = await client.call_api(
            request.path,
            request.method,
            query_params=list(request.query.items()),
            header_params={"Accept": _JSON, "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=aiohttp.ClientTimeout(total=request.seconds, sock_connect=CONNECT_SECONDS),
        )
        assert isinstance(response, aiohttp.ClientResponse)  # noqa: S101 - by _preload_content; its declared type is Any
        return response

    # --- connection -------------------------------------------------------------------------------

    async def _connected(self) -> ApiClient:
        async with self._lock:
            if self._client is None:
                configuration = Configuration()
                await self._load_credentials(configuration)
                try:
                    self._client = ApiClient(configuration)
                except OSError as error:  # unreadable certificates
                    raise _cannot_connect(error) from error
                self._client.user_agent = f"upshot/{__version__}"
            return self._client

    async def _renew_credentials(self) -> None:
        """Load the credentials again: the token has expired, or has been replaced at its source."""
        async with self._lock:
            if self._client is not None:
                await self._load_credentials(self._client.configuration)

    async def _load_credentials(self, configuration: Configuration) -> None:
        try:
            if self._kubeconfig is None and self._context is None and (own_namespace := _read_pod_namespace()):
                namespace: str | None = own_namespace
                load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # the library is half typed
            else:
                async with asyncio.timeout(REQUEST_SECONDS):  # a program in the kubeconfig may call a server itself
                    loader = await load_kube_config(
                        _check_exists(self._kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION),
                        self._context,
                        client_configuration=configuration,
                        # Never written back: the file belongs to a person, or is a secret that cannot be written.
                        persist_config=False,
                    )
                namespace = (loader.current_context or {}).get("context", {}).get("namespace")
        except (ConfigException, OSError, *_INVALID_KUBECONFIG) as error:
            raise _cannot_connect(error) from error
        self._namespace = self._configured_namespace or namespace or "default"


def _read_pod_namespace() -> str | None:
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.exists() else None


def _check_exists(paths: str) -> str:
    """Return the value of KUBECONFIG, which may contain several paths, if at least one of the files exists."""
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise ConfigException(f"there is no file {paths}, and the worker does not run in a pod")
    return paths


async def unless_missing(request: Awaitable[T]) -> T | None:
    """Return the response to a request; None if the object does not exist."""
    try:
        return await request
    except KubernetesApiError as error:
        if error.is_missing:
            return None
        raise


def _error_from_response(status: int, data: bytes) -> EngineUnavailable:
    message, reason = cut_text(data.decode("utf-8", "replace").strip(), _MAX_MESSAGE_CHARS), ""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:  # a proxy's page
        body = None
    if isinstance(body, dict) and "message" in body:
        message, reason = str(body["message"]), str(body.get("reason", ""))
    if status >= _SERVER_ERROR or status in (_TOO_MANY, _UNAUTHORIZED) or not message:
        return EngineUnavailable(f"Kubernetes answers {status}: {message or 'without a message'}")
    return KubernetesApiError(status, reason, message)


def _cannot_connect(error: BaseException) -> EngineUnavailable:
    return EngineUnavailable(
        f"no Kubernetes cluster can be reached: {_describe(error)}; set the backend's options "
        "`kubeconfig` and `context` as for kubectl"
    )


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
