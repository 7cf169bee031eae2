"""
Jobs on a Kubernetes cluster: as Jobs, or as custom resources from an operator's template.

Speaks to the API server through `kubernetes_asyncio`, an optional extra. Of the libraries that are
kept, it is the one that runs on our loop and on aiohttp, which is loaded anyway; that takes every
login that a kubeconfig can ask for, programs of both versions, certificates and proxies included;
and that lets a request be made as it is meant: a log from a time on, read piece by piece
(`lightkube`, a tenth of its size, knows neither, and half of the logins; `kr8s` brings a second
HTTP client). It pulls in nothing that Celery pins. Its generated models are not used: what is sent
is checked in the tests against the schema that Kubernetes publishes. They are loaded all the same,
36 MB in half a second, so nothing of this package is loaded where no backend asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from upshot.backends.kubernetes.options import read_options
from upshot.backends.protocol import Backend
from upshot.errors import ConfigError


def make(options: Mapping[str, Any]) -> Backend:
    """
    Make a backend as the operator's file has it.

    Raises:
        ConfigError: The options cannot be meant, or the extra is not installed.
    """
    read = read_options(options)
    if find_spec("kubernetes_asyncio") is None:
        raise ConfigError("jobs on Kubernetes need its client: pip install 'upshot[kubernetes]'")
    # The client takes half a second and 36 MB to load, and is an extra that need not be there.
    from upshot.backends.kubernetes.api import KubernetesClient  # noqa: PLC0415
    from upshot.backends.kubernetes.backend import KubernetesBackend  # noqa: PLC0415
    from upshot.backends.kubernetes.custom_resources import CustomResourceBackend  # noqa: PLC0415
    from upshot.backends.kubernetes.template import check_names, read_template  # noqa: PLC0415

    api = KubernetesClient(kubeconfig=read.kubeconfig, context=read.context, namespace=read.namespace)
    if read.template is None:
        return KubernetesBackend(api, read)
    check_names(read.log_selector)
    return CustomResourceBackend(api, read, read_template(read.template))
