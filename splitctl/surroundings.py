"""What `splitctl doctor` asks beside databases, gateways and ledger. Nothing is changed or sent."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from estate.config import Config, GateConfig, NotifyConfig, Problem
from estate.config.values import HTTP_URL
from estate.secrets import SecretMissing, SecretRef
from rollout.counters import Count, Snapshot
from splitctl.doctor import Examination, problem_of

if TYPE_CHECKING:
    from estate.cluster import Cluster

# Which figures of a gateway each kind of gate reads, and what it is called where it is exported.
READS: Mapping[str, tuple[Callable[[Count], bool], str]] = {
    "error_rate": (lambda count: True, "gateway_requests_total"),
    "latency_p95": (lambda count: bool(count.buckets), "gateway_request_seconds_bucket"),
    "share": (lambda count: count.customers is not None, "gateway_customers"),
}


def parts(config: Config) -> dict[str, Callable[[], Examination]]:
    """What this estate has of it, each to be asked by itself."""
    from rollout import permissions

    found: dict[str, Callable[[], Examination]] = {"metrics": partial(_metrics, config)}
    if permissions.rules(config):
        found["cluster"] = partial(_cluster, config)
    if config.flows.files:
        found["flows"] = partial(_flows, config)
    if config.notify:
        found["notify"] = partial(_webhooks, config)
    return found


def _cluster(config: Config) -> Examination:
    """Whether the manifests can be used, the cluster lets us do what this estate needs, and what
    is kept beside for a way back is there."""
    from estate.cluster import HTTP_ROUTE
    from estate.cluster import connect as reach
    from rollout import deploy_planning, permissions

    found = Examination()
    cluster = reach(config)
    used = "flags" if config.gateway.driver != "admin" else "Deployments that are looked at"
    if config.deploy is not None:
        used = f"{len(deploy_planning.rendered(config, cluster))} manifests"
    for lacking in permissions.missing(cluster, permissions.rules(config)):
        reason = f"in namespace {cluster.namespace} this rule is missing: {lacking}"
        folder = "http-route" if lacking.rule.group == HTTP_ROUTE.group else "base"
        remedy = f"An administrator adds it; deploy/{folder}/rbac.yaml has all of them."
        found.problems.append(Problem("cluster", reason, remedy))
    if not found.problems:
        namespace = cluster.namespace
        found.healthy.append(f"cluster: {used} for namespace {namespace}, and all rights")
    found.problems.extend(_ways_back(config, cluster))
    return found


def _ways_back(config: Config, cluster: "Cluster") -> Iterator[Problem]:
    """Whether finished domains that are not complete could come back."""
    from rollout import ways_back

    for domain, told in ways_back.lacking(config, cluster).items():
        if told and not _complete(config, domain):
            fix = "splitctl deploy apply"
            yield Problem(f"domains.{domain}", "; ".join(told), f"Type: {fix}", fix)


def _complete(config: Config, domain: str) -> bool:
    """As the ledger says; while it is away nobody knows, and the way back is to be open."""
    from estate.ledger import LedgerUnreachable, open_ledger
    from rollout.phases import Stage

    try:
        with open_ledger(config) as ledger:
            row = ledger.rollout(domain)
    except LedgerUnreachable:
        return False
    return row is not None and row.stage == Stage.COMPLETE


def _metrics(config: Config) -> Examination:
    """Whether Prometheus answers, and whether there is anything of what the gates read.

    What is not there yet is named and no more: the gates hold until it comes.
    """
    from rollout.gateways import metrics_of
    from rollout.prometheus_api import Prometheus

    found = Examination()
    if config.metrics.url is not None:
        Prometheus.of(config).instant("vector(1)")
        found.healthy.append(f"Prometheus at {config.metrics.url}")
    seen = metrics_of(config).scrape()
    # Pages of gateways that have an endpoint are told of as these gateways.
    own = config.metrics.driver == "prometheus" or config.metrics.urls
    told = own or config.gateway.driver != "admin"
    for name, reason in seen.problems.items() if told else ():
        remedy = "Gates that look at traffic are inconclusive until it is seen."
        found.warnings.append(Problem(f"metrics {name}", reason.rstrip("."), remedy))
    for name in config.domains:
        found.warnings.extend(_unread(config, name, seen))
    return found


def _unread(config: Config, domain: str, seen: Snapshot) -> Iterator[Problem]:
    """The gates whose figures no gateway that was seen tells."""
    counts = [count for sides in seen.gateways.values() for count in sides.get(domain, {}).values()]
    for gate in config.gates:
        if gate.kind not in READS or domain not in (gate.domains or [domain]):
            continue
        tells, name = READS[gate.kind]
        if seen.gateways and not any(tells(count) for count in counts):
            reason = f"no gateway tells {name} of domain {domain}"
            yield Problem(_key(config, gate), reason, _when_it_comes(counts))


def _key(config: Config, gate: GateConfig) -> str:
    return f"gates.{config.gates.index(gate)} ({gate.name})"


def _when_it_comes(counts: list[Count]) -> str:
    if counts:
        return "The gate is inconclusive as long as gateways do not export it."
    return "Before the first request that is so; else look at what gateways export."


def _flows(config: Config) -> Examination:
    """Whether the flow files are there, and say what can be done."""
    from rollout import flows

    read = flows.read_all(config)
    return Examination([f"flows: {', '.join(flow.name for flow in read)}"])


def _webhooks(config: Config) -> Examination:
    """Whether each address is one, and its secrets are there; nobody is told anything."""
    found = Examination()
    for number, settings in enumerate(config.notify):
        key = f"notify.{number} ({settings.name})"
        try:
            reason = _wrong(settings)
        except SecretMissing as error:
            found.problems.append(problem_of(key, error))
            continue
        if reason:
            remedy = "An address of http:// or https:// is expected, as the receiver gave it."
            found.problems.append(Problem(key, reason, remedy))
        else:
            found.healthy.append(f"webhook {settings.name}: its address can be one")
    return found


def _wrong(settings: NotifyConfig) -> str:
    """What is wrong with an address, without repeating it: it may be a secret."""
    if settings.secret is not None:
        settings.secret.reveal()
    address = settings.url.reveal() if isinstance(settings.url, SecretRef) else settings.url
    place = str(settings.url) if isinstance(settings.url, SecretRef) else "url"
    return "" if HTTP_URL.fullmatch(address) else f"{place} does not hold an address"
