"""Manifests of the tests' own small programs."""

import sys
from typing import Any

from estate.cluster import Object

PORT = 8080
COMMAND = [sys.executable, "-m", "tests.cluster.web"]


def variable(name: str, value: str) -> Object:
    """An entry of `env`."""
    return {"name": name, "value": value}


def field(name: str, path: str) -> Object:
    """An entry of `env` that comes from the pod itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def web(
    name: str = "web",
    *,
    replicas: int = 3,
    env: list[Object] | None = None,
    deadline_s: int = 60,
    **container: Any,
) -> Object:
    """A Deployment of `tests.cluster.web`, which never has fewer pods ready than it should."""
    labels = {"app": name}
    listens = [field("HOST", "status.podIP"), variable("PORT", str(PORT))]
    described = {
        "name": name,
        "image": "tests/web:1",
        "command": COMMAND,
        "env": [*listens, *(env or [])],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": PORT},
            "periodSeconds": 1,
            "failureThreshold": 2,
        },
        **container,
    }
    rolling = {"maxUnavailable": 0, "maxSurge": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": deadline_s,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [described]},
            },
        },
    }


def config_map(name: str, **data: str) -> Object:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
