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


def deployment(name: str, image: str, values: dict[str, str], *, replicas: int) -> Object:
    """A Deployment of one of the split's own programs; its pods have the label app=NAME."""
    env = [field("HOST", "status.podIP"), variable("PORT", str(PORT))]
    env += [variable(key, value) for key, value in values.items()]
    container: Object = {
        "name": name,
        "image": image,
        "env": env,
        "readinessProbe": {
            "httpGet": {"path": "/health/ready", "port": PORT},
            "periodSeconds": 1,
            "failureThreshold": 2,
        },
    }
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 20, "containers": [container]},
            },
        },
    }


def mounted(manifest: Object, config_map: str, path: str) -> Object:
    """The same Deployment with a ConfigMap as files in a folder of its container."""
    spec = manifest["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": config_map, "configMap": {"name": config_map}}]
    spec["containers"][0]["volumeMounts"] = [{"name": config_map, "mountPath": path}]
    return manifest


def service(name: str, **selector: str) -> Object:
    """A Service on port 80 before the pods with these labels."""
    ports = [{"port": 80, "targetPort": PORT, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": ports},
    }


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
