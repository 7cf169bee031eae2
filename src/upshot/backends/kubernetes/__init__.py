"""
Jobs on a Kubernetes cluster: as Jobs, or as custom resources from an operator's template.

The API server is reached through `kubernetes_asyncio`, an optional extra. It is the only maintained library that runs
on the worker's event loop and on aiohttp, which is loaded anyway. It supports every login of a kubeconfig, including
programs, certificates and proxies. It also allows custom requests, such as for a log since a given time, read in
chunks. `lightkube` is a tenth of its size, but supports neither the logs nor half of the logins. `kr8s` brings a second
HTTP client. `kubernetes_asyncio` depends on nothing that Celery pins.

Its generated models are not used: the tests check the requests against the schema that Kubernetes publishes. Importing
the library loads the models all the same, which takes half a second and 36 MB. So nothing of this package is loaded
unless a backend needs it.
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
    Make a backend with the options in the operator's file.

    Raises:
        ConfigError: An option is invalid, or the extra is not installed.
    """
    valid = read_options(options)
    if find_spec("kubernetes_asyncio") is None:
        raise ConfigError("jobs on Kubernetes need its client: pip install 'upshot[kubernetes]'")
    # The client is optional, and slow to load.
    from upshot.backends.kubernetes.api import KubernetesClient  # noqa: PLC0415
    from upshot.backends.kubernetes.backend import KubernetesBackend  # noqa: PLC0415
    from upshot.backends.kubernetes.custom_resources import CustomResourceBackend  # noqa: PLC0415
    from upshot.backends.kubernetes.template import check_selector, read_template  # noqa: PLC0415

    api = KubernetesClient(kubeconfig=valid.kubeconfig, context=valid.context, namespace=valid.namespace)
    if valid.template is None:
        return KubernetesBackend(api, valid)
    check_selector(valid.log_selector)
    return CustomResourceBackend(api, valid, read_template(valid.template))
