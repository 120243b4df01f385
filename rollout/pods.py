"""Gateways as pods of a Deployment, and the two places in a cluster where their flags can stand.

A variable never changes in a process that runs, so what a pod was started with is what it serves:
the API server knows it exactly. A mounted file does change, so there each pod is asked.
"""

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import httpx

from estate.cluster import Cluster, Deployment, Pod
from estate.config import Config, DomainConfig, Problem
from estate.errors import SplitctlError, in_one_line
from rollout import parallel
from rollout.counters import Snapshot
from rollout.flags import DomainFlags, GatewayFlags
from rollout.metrics import ScrapeMetrics
from rollout.written import BY_DEFAULT, differing, may_follow, need_gone, need_none

TIMEOUT_S = 2.0
# A pod of a rolling restart: to start, to be found ready, and to let the old one end.
ESTIMATED_POD_S = 15.0
# The kubelet looks at a mounted ConfigMap about once a minute.
ESTIMATED_FILE_S = 90.0
PERCENTAGE, EPOCH = "gateway_flag_percentage", "gateway_flag_epoch"
# Conditions of a Deployment that say why its pods do not come.
WRONG = frozenset(("ReplicaFailure", "Progressing"))
WORDS = frozenset(("true", "1", "yes", "on"))


def pods_alive(cluster: Cluster, selector: str) -> list[Pod]:
    """The pods of a selector; one that was evicted, say, is listed for days, and serves nobody."""
    return [pod for pod in cluster.pods(selector) if not pod.over]


def page_of(pod: Pod, port: int, path: str) -> str:
    """The address of one of a pod's pages."""
    return f"http://{pod.ip}:{port}{path}"


class GatewayPods:
    """The pods of the gateways' Deployment."""

    def __init__(self, cluster: Cluster, config: Config) -> None:
        gateway = config.gateway
        assert gateway.deployment is not None  # the configuration has seen to it
        self.cluster, self.deployment = cluster, gateway.deployment
        self.container, self.port = gateway.container, gateway.port
        self.domains: Mapping[str, DomainConfig] = config.domains

    def all(self) -> list[Pod]:
        """Those that are there, ending ones too. Raises what a cluster raises."""
        return self._alive(self.cluster.deployment(self.deployment))

    def _alive(self, deployment: Deployment) -> list[Pod]:
        return pods_alive(self.cluster, deployment.selector)

    @property
    def name(self) -> str:
        """What they are called together."""
        return self.deployment

    def page(self, pod: Pod, path: str) -> str:
        """The address of one of its pages."""
        return page_of(pod, self.port, path)

    def incomplete(self) -> list[str]:
        """What the Deployment still lacks: pods that are not ready, too few, or too many."""
        deployment = self.cluster.deployment(self.deployment)
        if idle := self._idle(deployment):
            return [f"{idle.key} {idle.reason}"]
        pods = self._alive(deployment)
        told = [_told(pod) for pod in pods if pod.ending or not pod.ready]
        told += [
            f"deployment {self.deployment}: {why}"
            for what, why in deployment.reasons.items()
            if what in WRONG
        ]
        if not told and not deployment.complete:
            told = [
                f"deployment {self.deployment}: {deployment.updated} of {deployment.wanted} pods "
                f"are of the newest template, {deployment.available} are available"
            ]
        return told

    def hindrances(self) -> list[Problem]:
        """Why no pod would ever start with other flags. Never raises."""
        key = f"deployment {self.deployment}"
        try:
            deployment = self.cluster.deployment(self.deployment)
        except SplitctlError as error:
            return [Problem(key, str(error).rstrip("."), "See that the cluster can be asked.")]
        idle = self._idle(deployment)
        return [] if idle is None else [idle]

    def _idle(self, deployment: Deployment) -> Problem | None:
        """What somebody has switched off: no pod comes until it is switched on again."""
        key, place = f"deployment {self.deployment}", f"deployment/{self.deployment}"
        kubectl = f"kubectl -n {self.cluster.namespace}"
        if deployment.paused:
            fix = f"{kubectl} rollout resume {place}"
            return Problem(key, "is paused (spec.paused): its pods keep what they have", "", fix)
        if not deployment.wanted:
            fix = f"{kubectl} scale {place} --replicas 2"
            return Problem(key, "has no pods (spec.replicas is 0): nobody is served", "", fix)
        return None


def _told(pod: Pod) -> str:
    if pod.ending:
        return f"pod {pod.name} is ending"
    reasons = [f"{c.waiting}: {c.message}".strip(": ") for c in pod.containers if c.waiting]
    return f"pod {pod.name} is not ready ({'; '.join(reasons) or pod.phase or 'pending'})"


def of_environment(domain: DomainConfig, values: Mapping[str, str]) -> DomainFlags:
    """The flags that variables amount to; what is not set, or is no number, is 0."""
    if written_in(domain, values) is None and on_new_by_default(domain, values):
        return BY_DEFAULT
    return DomainFlags(
        enabled=values.get(domain.flag, "").strip().lower() in WORDS,
        percentage=_number(values.get(domain.percentage, "")),
        epoch=_number(values.get(domain.epoch_name, "")),
    )


def written_in(domain: DomainConfig, values: Mapping[str, str]) -> frozenset[str] | None:
    """Which of the domain's flags are set; None where neither switch nor percentage is.

    Empty is not set: so a gateway reads them.
    """
    names = (domain.flag, domain.percentage, domain.epoch_name)
    found = frozenset(name for name in names if values.get(name, "").strip())
    return found if found & {domain.flag, domain.percentage} else None


def on_new_by_default(domain: DomainConfig, values: Mapping[str, str]) -> bool:
    """Whether a gateway with these variables sends everybody to the new side without a flag."""
    return bool(domain.default) and values.get(domain.default, "").strip().lower() == "new"


def to_environment(domain: DomainConfig, flags: DomainFlags) -> dict[str, str]:
    """The variables that say these flags."""
    return {
        domain.flag: "true" if flags.enabled else "false",
        domain.percentage: str(flags.percentage),
        domain.epoch_name: str(flags.epoch),
    }


def _stands(domain: DomainConfig, values: Mapping[str, str]) -> DomainFlags | None:
    return None if written_in(domain, values) is None else of_environment(domain, values)


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else 0


class EnvironmentFlags:
    """Variables of the Deployment, like `kubectl set env`. A change is a rolling restart."""

    name = "environment"

    def __init__(self, pods: GatewayPods) -> None:
        self._pods = pods

    def write(self, domain: str, flags: DomainFlags, expecting: DomainFlags | None = None) -> None:
        """Server-side apply under a field manager of our own.

        Raises FlagsOvertaken, and what a cluster raises.
        """
        settings = self._pods.domains[domain]

        def check(stands: Mapping[str, str]) -> None:
            may_follow(domain, of_environment(settings, stands), flags, expecting)

        self._pods.cluster.patch_env(
            self._pods.deployment,
            self._pods.container,
            to_environment(settings, flags),
            check=check,
        )

    def stands(self, domain: str) -> DomainFlags | None:
        """What the Deployment's template says. Raises what a cluster raises."""
        settings = self._pods.domains[domain]
        deployment = self._pods.cluster.deployment(self._pods.deployment)
        return _stands(settings, deployment.env(self._pods.container))

    def remove(self, domain: str, expecting: DomainFlags) -> None:
        """Give our variables up. Raises FlagsOvertaken, FlagsKept, and what a cluster raises."""
        settings, pods = self._pods.domains[domain], self._pods

        def check(stands: Mapping[str, str]) -> None:
            may_follow(domain, of_environment(settings, stands), expecting, expecting)

        names = to_environment(settings, expecting)
        left = pods.cluster.drop_env(pods.deployment, pods.container, frozenset(names), check=check)
        need_gone(domain, f"deployment {pods.deployment}", names, left.env(pods.container))

    def restore(self, domain: str, flags: DomainFlags) -> None:
        """Raises FlagsOvertaken, and what a cluster raises."""
        settings, pods = self._pods.domains[domain], self._pods

        def check(stands: Mapping[str, str]) -> None:
            need_none(domain, _stands(settings, stands))

        values = to_environment(settings, flags)
        pods.cluster.patch_env(pods.deployment, pods.container, values, check=check)

    def unflagged(self, domain: str) -> list[str]:
        """Pods that were started with a flag, and what `unsettled` names."""
        return self.unsettled(domain, BY_DEFAULT)

    def served(self) -> list[GatewayFlags]:
        """What each pod was started with."""
        try:
            pods = self._pods.all()
        except SplitctlError as error:
            return [GatewayFlags("cluster", reachable=False, problem=str(error))]
        return [self._of(pod) for pod in pods]

    def _of(self, pod: Pod) -> GatewayFlags:
        values = pod.env(self._pods.container)
        found = {
            name: of_environment(domain, values) for name, domain in self._pods.domains.items()
        }
        return GatewayFlags(f"pod {pod.name}", pod.name, True, found)

    def unsettled(self, domain: str, flags: DomainFlags) -> list[str]:
        """Pods of an older template, those that end or are not ready, and what the API hides."""
        try:
            return differing(self.served(), domain, flags) + self._pods.incomplete()
        except SplitctlError as error:
            return [str(error)]

    def hindrances(self) -> list[Problem]:
        """A Deployment that is paused, or has no pods."""
        return self._pods.hindrances()

    def takes_s(self) -> float:
        """A while for each pod."""
        return ESTIMATED_POD_S * _wanted(self._pods)


class ConfigMapFlags:
    """Keys of a ConfigMap that the pods have mounted. Each pod reads the change in its own time."""

    name = "config-map"

    def __init__(self, pods: GatewayPods, config_map: str) -> None:
        self._pods, self._config_map = pods, config_map
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def write(self, domain: str, flags: DomainFlags, expecting: DomainFlags | None = None) -> None:
        """Server-side apply under a field manager of our own.

        Raises FlagsOvertaken, and what a cluster raises.
        """
        settings = self._pods.domains[domain]

        def check(stands: Mapping[str, str]) -> None:
            may_follow(domain, of_environment(settings, stands), flags, expecting)

        values = to_environment(settings, flags)
        self._pods.cluster.patch_config_map(self._config_map, values, check=check)

    def stands(self, domain: str) -> DomainFlags | None:
        """What the ConfigMap says. Raises what a cluster raises."""
        found = self._pods.cluster.config_map(self._config_map)
        return _stands(self._pods.domains[domain], found.data)

    def remove(self, domain: str, expecting: DomainFlags) -> None:
        """Give our keys up. Raises FlagsOvertaken, FlagsKept, and what a cluster raises."""
        settings = self._pods.domains[domain]

        def check(stands: Mapping[str, str]) -> None:
            may_follow(domain, of_environment(settings, stands), expecting, expecting)

        names = to_environment(settings, expecting)
        left = self._pods.cluster.drop_keys(self._config_map, frozenset(names), check=check)
        need_gone(domain, f"config map {self._config_map}", names, left.data)

    def restore(self, domain: str, flags: DomainFlags) -> None:
        """Raises FlagsOvertaken, and what a cluster raises."""
        settings = self._pods.domains[domain]

        def check(stands: Mapping[str, str]) -> None:
            need_none(domain, _stands(settings, stands))

        values = to_environment(settings, flags)
        self._pods.cluster.patch_config_map(self._config_map, values, check=check)

    def unflagged(self, domain: str) -> list[str]:
        """Pods that send customers to the old side; one that runs keeps what it has read."""
        try:
            return [
                f"{gateway.url}: {gateway.problem or 'it sends customers to the old side'}"
                for gateway in self.served()
                if domain not in gateway.domains
                or gateway.domains[domain].served != BY_DEFAULT.served
            ] + self._pods.incomplete()
        except SplitctlError as error:
            return [str(error)]

    def served(self) -> list[GatewayFlags]:
        """What each pod tells on its metrics page."""
        try:
            pods = self._pods.all()
        except SplitctlError as error:
            return [GatewayFlags("cluster", reachable=False, problem=str(error))]
        tasks = {pod.name: partial(self._ask, pod) for pod in pods}
        outcomes = parallel.gather(tasks, 2 * TIMEOUT_S)
        return [
            outcome.value
            or GatewayFlags(f"pod {name}", reachable=False, problem=in_one_line(outcome.error))
            for name, outcome in outcomes.items()
        ]

    def _ask(self, pod: Pod) -> GatewayFlags:
        from prometheus_client.parser import text_string_to_metric_families

        answer = self._client.get(self._pods.page(pod, "/metrics"))
        answer.raise_for_status()
        told: dict[str, dict[str, int]] = {PERCENTAGE: {}, EPOCH: {}}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name in told:
                    told[sample.name][sample.labels.get("domain", "")] = int(sample.value)
        found = {
            name: DomainFlags(True, percentage, told[EPOCH].get(name, 0))
            for name, percentage in told[PERCENTAGE].items()
        }
        return GatewayFlags(f"pod {pod.name}", pod.name, True, found)

    def unsettled(self, domain: str, flags: DomainFlags) -> list[str]:
        """Pods that tell of something else, do not answer, end, or are not ready."""
        try:
            return differing(self.served(), domain, flags) + self._pods.incomplete()
        except SplitctlError as error:
            return [str(error)]

    def hindrances(self) -> list[Problem]:
        """A Deployment that is paused, or has no pods."""
        return self._pods.hindrances()

    def takes_s(self) -> float:
        """As long as the slowest kubelet."""
        return ESTIMATED_FILE_S


def _wanted(pods: GatewayPods) -> int:
    try:
        return max(1, pods.cluster.deployment(pods.deployment).wanted)
    except SplitctlError:
        return 1


class Pods(Protocol):
    """Pods that count requests. `name`: what they are called together."""

    @property
    def name(self) -> str: ...

    def all(self) -> list[Pod]:
        """Those that are there, ending ones too. Raises what a cluster raises."""

    def page(self, pod: Pod, path: str) -> str:
        """The address of one of its pages."""


class PodMetrics:
    """The metrics pages of the pods that count requests, found anew at each look."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._pages: tuple[str, ...] = ()
        self._scraping = ScrapeMetrics(())

    def scrape(self) -> Snapshot:
        """One look at every pod that customers are sent to; a cluster that is away is told."""
        try:
            serving = [pod for pod in self._pods.all() if pod.ready and not pod.ending]
        except SplitctlError as error:
            return Snapshot(problems={"cluster": str(error)})
        pages = tuple(self._pods.page(pod, "/metrics") for pod in serving)
        if pages != self._pages:
            self._pages, self._scraping = pages, ScrapeMetrics(pages)
        if not pages:
            return Snapshot(problems={self._pods.name: "no pod is ready"})
        return self._scraping.scrape()
