"""The connection to a cluster's API server: plain data in and out, and every trouble one of our errors."""

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

CALL_SECONDS = 8.0  # for one answer; a verb of a backend asks two or three times, some of them at once
CONNECT_SECONDS = 5.0
PAGE_ITEMS = 500  # of a list, as kubectl asks for it

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"  # JSON is YAML; made if it is not there

_JSON = "application/json"
_UNAUTHORIZED, _NOT_FOUND, _CONFLICT, _GONE, _TOO_MANY, _SERVER_ERROR = 401, 404, 409, 410, 429, 500
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # of the pod that we are in
#: What the library raises over a file that is no kubeconfig.
_BROKEN_FILE = (YAMLError, ValueError, LookupError, TypeError, AttributeError, AssertionError)

T = TypeVar("T")

Query = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Query
    body: Any = None
    content_type: str = _JSON
    seconds: float = CALL_SECONDS  #: for all of the answer


class KubernetesApiError(EngineUnavailable):
    """
    The API server said no, and its reason; for most verbs that is as good as no answer.

    Args:
        status: The HTTP status.
        reason: The API's word for it: AlreadyExists, Forbidden, Invalid, …
        message: The API's own.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"Kubernetes: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def is_missing(self) -> bool:
        """The thing is not there."""
        return self.status == _NOT_FOUND

    @property
    def is_there_already(self) -> bool:
        """A thing of this name is there."""
        return self.status == _CONFLICT and self.reason == "AlreadyExists"

    @property
    def is_gone(self) -> bool:
        """The version that was asked for is too old to be known."""
        return self.status == _GONE

    def as_refusal(self) -> StartRefused:
        """The same, as the end of a start: a job that breaks a rule of the cluster's breaks it again."""
        return StartRefused(FailureKind.REFUSED, f"Kubernetes refuses it: {self.message}")


class KubernetesClient:
    """
    One API server, with the rights of one account.

    Args:
        kubeconfig: Path; None: this pod's own account, or the file that kubectl would take.
        context: Of that file; None: its current one.
        namespace: None: the pod's or the context's.
    """

    def __init__(self, *, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._wanted_namespace = namespace
        self._namespace = namespace or "default"
        self._client: ApiClient | None = None
        self._turn = asyncio.Lock()

    async def server(self) -> str:
        """The URL that it is reached by."""
        return str((await self._connected()).configuration.host)

    async def namespace(self) -> str:
        """Where everything of ours is."""
        await self._connected()
        return self._namespace

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # --- asking -----------------------------------------------------------------------------------

    async def call(
        self, method: str, path: str, *, query: Query | None = None, body: Any = None, content_type: str = _JSON
    ) -> Any:
        """
        Ask once.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: From the server's root.
            query: Of the URL.
            body: Plain data.
            content_type: Of the body: `MERGE` or `APPLY` for a patch.

        Raises:
            Rejected: The server said no.
            EngineUnavailable: It did not answer, or cannot for now.
        """
        async with self._asked(_Request(method, path, query or {}, body, content_type)) as response:
            return _plain(await response.read())

    async def list_all(self, path: str, **query: str) -> list[dict[str, Any]]:
        """All that is there, page by page."""
        try:
            return await self._pages(path, {**query, "limit": PAGE_ITEMS})
        except KubernetesApiError as error:
            if not error.is_gone:
                raise
            return await self._pages(path, query)  # the list has changed too much since its first page

    async def _pages(self, path: str, query: Query) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        more: str | None = ""
        while more is not None:
            page = await self.call("GET", path, query={**query, "continue": more} if more else query)
            items += page.get("items") or []
            more = page.get("metadata", {}).get("continue") or None
        return items

    @asynccontextmanager
    async def stream(self, path: str, query: Query, *, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """
        The body of an answer, piece by piece as it comes.

        Args:
            path: From the server's root.
            query: Of the URL.
            seconds: For all of it; EngineUnavailable when it takes longer.
        """
        async with self._asked(_Request("GET", path, query, seconds=seconds)) as response:
            yield response.content.iter_any()

    @asynccontextmanager
    async def _asked(self, question: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that says yes; what goes wrong while it is read is our error, too."""
        try:
            async with asyncio.timeout(CALL_SECONDS):  # for its head; a watch goes on for minutes
                response = await self._logged_in(question)
            async with response:
                if response.status >= 300:  # noqa: PLR2004 - a redirect is no answer either
                    raise _refusal(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineUnavailable(f"Kubernetes does not answer: {_said(error)}") from error

    async def _logged_in(self, question: _Request) -> aiohttp.ClientResponse:
        response = await self._send(question)
        if response.status == _UNAUTHORIZED:
            response.release()
            await self._renew()
            response = await self._send(question)
        return response

    async def _send(self, question: _Request) -> aiohttp.ClientResponse:
        client = await self._connected()
        answer = await client.call_api(
            question.path,
            question.method,
            query_params=list(question.query.items()),
            header_params={"Accept": _JSON, "Content-Type": question.content_type},
            body=question.body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=aiohttp.ClientTimeout(total=question.seconds, sock_connect=CONNECT_SECONDS),
        )
        assert isinstance(answer, aiohttp.ClientResponse)  # noqa: S101 - as asked for; the library's type says Any
        return answer

    # --- connecting -------------------------------------------------------------------------------

    async def _connected(self) -> ApiClient:
        async with self._turn:
            if self._client is None:
                configuration = Configuration()
                await self._log_in(configuration)
                try:
                    self._client = ApiClient(configuration)
                except OSError as error:  # certificates that cannot be read
                    raise _no_way(error) from error
                self._client.user_agent = f"upshot/{__version__}"
            return self._client

    async def _renew(self) -> None:
        """Log in again: a token has run out, or was changed where we read it from."""
        async with self._turn:
            if self._client is not None:
                await self._log_in(self._client.configuration)

    async def _log_in(self, configuration: Configuration) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):  # a program of the kubeconfig's may ask a server of its own
                usual = await self._account(configuration)
        except (ConfigException, OSError, *_BROKEN_FILE) as error:
            raise _no_way(error) from error
        self._namespace = self._wanted_namespace or usual or "default"

    async def _account(self, configuration: Configuration) -> str | None:
        """Fill in server and account; returns the namespace that goes with them."""
        if self._kubeconfig is None and self._context is None and (own := _own_namespace()):
            load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # the library's own is half typed
            return own
        # Never written back: the file is a person's, or a secret that cannot be written.
        loader = await load_kube_config(
            _existing(self._kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION),
            self._context,
            client_configuration=configuration,
            persist_config=False,
        )
        context = loader.current_context or {}
        namespace: str | None = context.get("context", {}).get("namespace")
        return namespace


def _own_namespace() -> str | None:
    """Of the pod that we are in."""
    return _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.exists() else None


async def unless_missing(asked: Awaitable[T]) -> T | None:
    """The answer; None where there is no such thing."""
    try:
        return await asked
    except KubernetesApiError as error:
        if error.is_missing:
            return None
        raise


def _plain(data: bytes) -> Any:
    return orjson.loads(data) if data else None


def _refusal(status: int, data: bytes) -> EngineUnavailable:
    try:
        said = orjson.loads(data)
        message, reason = str(said["message"]), str(said.get("reason", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        message, reason = data.decode("utf-8", "replace").strip()[:500], ""
    if status >= _SERVER_ERROR or status in (_TOO_MANY, _UNAUTHORIZED) or not message:
        return EngineUnavailable(f"Kubernetes answers {status}: {message or 'nothing more'}")
    return KubernetesApiError(status, reason, message)


def _existing(paths: str) -> str:
    """What KUBECONFIG may hold: several paths, of which one at least is there."""
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise ConfigException(f"there is no file {paths}, and this is no pod of a cluster's own")
    return paths


def _no_way(error: BaseException) -> EngineUnavailable:
    return EngineUnavailable(
        f"there is no way to a Kubernetes cluster: {_said(error)}; give the backend's options "
        "`kubeconfig` and `context` as kubectl has them"
    )


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
