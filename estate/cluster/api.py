"""The API server over HTTP, through the official client: requests in, plain objects out."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from estate.cluster.errors import (
    ClusterChanged,
    ClusterConfigInvalid,
    ClusterConflict,
    ClusterForbidden,
    ClusterKindUnknown,
    ClusterRefused,
    ClusterUnauthorized,
    ClusterUnreachable,
)
from estate.cluster.fields import Object
from estate.cluster.objects import Kind
from estate.config import ClusterConfig
from estate.errors import SplitctlError, in_one_line

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CANNOT = re.compile(
    r'cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
)
# What older servers say of an apply that would make its object, without the right to create it.
NOT_MADE = re.compile(r'^(?P<resource>\w+)(\.(?P<group>\S+))? "[^"]*" is forbidden:$')
OWNER = re.compile(r'conflict with "(?P<manager>[^"]+)"')
# What the server says when it is busy, shutting down, or not yet ready.
AWAY = (429, 500, 502, 503, 504)
# A manifest that does not fit its kind is an inner mistake to older servers.
UNTYPED = "failed to create typed patch object"


class Api:
    """One API server, as one user. Safe to use from several threads."""

    def __init__(self, client: "ApiClient", namespace: str, request_s: float) -> None:
        self._client, self.namespace, self.request_s = client, namespace, request_s
        self._plurals: dict[str, dict[str, tuple[str, bool]]] = {}

    @property
    def server(self) -> str:
        """Its address."""
        return str(self._client.configuration.host)

    def close(self) -> None:
        """Close every connection."""
        self._client.rest_client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "application/json",
    ) -> Object | None:
        """The answer, None for 404. Raises what `_refusal` names, and ClusterUnreachable."""
        with self._answering():
            response = self._send(method, path, query or {}, body, content, self.request_s)
            text = response.data
        if response.status == 404:
            return None
        if response.status >= 400:
            raise self._refusal(response.status, text, body)
        try:
            found: Object = json.loads(text)
        except ValueError:  # a proxy's page, say
            told = in_one_line(text[:200].decode("utf-8", "replace"))
            reason = f"{response.status}, and no answer of a cluster: {told}"
            raise ClusterUnreachable(server=self.server, reason=reason) from None
        return found

    def stream(self, path: str, query: Mapping[str, str], limit_s: float) -> Iterator[Object]:
        """The lines of a watch, until the limit or the server ends it."""
        asked = {**query, "watch": "1", "timeoutSeconds": str(max(1, round(limit_s)))}
        with self._answering():
            response = self._send("GET", path, asked, None, "", limit_s + self.request_s)
            if response.status >= 400:
                raise self._refusal(response.status, response.data, None)
            rest = b""
            try:
                for part in response.stream(65536):
                    *lines, rest = (rest + part).split(b"\n")
                    yield from (json.loads(line) for line in lines if line)
            finally:
                response.close()  # a watch that is left early must not go back to the pool

    def path(self, kind: Kind, name: str = "") -> str:
        """Where objects of this kind are. Raises ClusterKindUnknown."""
        root = self._root(kind.api_version)
        plural, namespaced = self.resource(kind)
        within = f"/namespaces/{self.namespace}" if namespaced else ""
        return f"{root}{within}/{plural}" + (f"/{name}" if name else "")

    def resource(self, kind: Kind) -> tuple[str, bool]:
        """What the cluster calls this kind in an address, and whether it is of a namespace."""
        known = self._plurals.get(kind.api_version)
        if known is None:
            answer = self.call("GET", self._root(kind.api_version))
            if answer is None:  # and asked again: the definition may be installed meanwhile
                raise ClusterKindUnknown(kind=kind.name, api_version=kind.api_version)
            known = {
                found["kind"]: (found["name"], found["namespaced"])
                for found in answer.get("resources", [])
                if "/" not in found["name"]
            }
            self._plurals[kind.api_version] = known
        if kind.name not in known:
            raise ClusterKindUnknown(kind=kind.name, api_version=kind.api_version)
        return known[kind.name]

    @staticmethod
    def _root(api_version: str) -> str:
        return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content: str,
        limit_s: float,
    ) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        limits = (self.request_s, limit_s)
        answer = self._client.call_api(method, url, headers, body, _request_timeout=limits)
        return answer.response

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Whatever the wire does becomes ClusterUnreachable."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (HTTPError, ApiException, OSError) as error:
            reason = in_one_line(getattr(error, "reason", None) or error)
            raise ClusterUnreachable(server=self.server, reason=reason) from None

    def _refusal(self, status: int, text: bytes, body: Object | None) -> SplitctlError:
        """The error for an answer that is none."""
        try:
            told: Object = json.loads(text)
        except ValueError:
            told = {}
        message = in_one_line(told.get("message") or text[:200].decode("utf-8", "replace"))
        details = told.get("details") or {}
        kind = (body or {}).get("kind") or details.get("kind") or "object"
        name = (body or {}).get("metadata", {}).get("name") or details.get("name") or ""
        if status == 401:
            return ClusterUnauthorized(server=self.server)
        missing = CANNOT.search(message)
        if status == 403 and missing:
            return ClusterForbidden(namespace=self.namespace, **missing.groupdict())
        if status == 403 and (made := NOT_MADE.match(message)):
            told = {"group": made["group"] or "", "resource": made["resource"], "verb": "create"}
            return ClusterForbidden(namespace=self.namespace, **told)
        if status == 409:
            return _conflict(kind, name, details.get("causes", []))
        if status in AWAY and UNTYPED not in message:
            return ClusterUnreachable(server=self.server, reason=f"{status}: {message}")
        return ClusterRefused(kind=kind, name=name, reason=message)


def _conflict(kind: str, name: str, causes: list[Object]) -> SplitctlError:
    """Fields that belong to somebody else, or an object that has changed since it was read."""
    found = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
    if not found:
        return ClusterChanged(kind=kind, name=name)
    managers = {match["manager"] for cause in found if (match := OWNER.search(cause["message"]))}
    fields = ", ".join(cause.get("field", "") for cause in found)
    return ClusterConflict(
        kind=kind, name=name, fields=fields, managers=", ".join(sorted(managers))
    )


def connect(settings: ClusterConfig) -> Api:
    """As the configuration says. Nothing is asked yet. Raises ClusterConfigInvalid."""
    from kubernetes import client, config
    from yaml import YAMLError

    target = client.Configuration()
    try:
        inside = settings.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ
        if inside:
            config.load_incluster_config(target)
            namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        else:
            path = str(settings.kubeconfig) if settings.kubeconfig else None
            config.load_kube_config(path, settings.context, target, persist_config=False)
            namespace = _context_namespace(path, settings.context)
    except (config.ConfigException, YAMLError, OSError) as error:
        raise ClusterConfigInvalid(reason=in_one_line(error)) from None
    target.retries = False  # whoever asks decides whether to ask again
    found = settings.namespace or namespace
    return Api(client.ApiClient(target), found, settings.request_s)


def _context_namespace(path: str | None, wanted: str | None) -> str:
    from kubernetes import config

    contexts, active = config.list_kube_config_contexts(path)
    for context in [active] if wanted is None else contexts:
        if wanted in (None, context["name"]):
            return str(context["context"].get("namespace") or "default")
    return "default"
