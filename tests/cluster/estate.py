"""The order split on the cluster: services and gateways as pods, all else as it always is.

`ClusterEstate` is what its subclasses share: how gateways are told is theirs.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from estate.cluster import Cluster, Object
from rehearsal.children import wait_until
from rehearsal.estate import FLAGS, Estate
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, config_map, deployment, mounted, service, variable

DEPLOYED_S = 60.0
DRAIN_S = "1"
OWNED = {"order": "old", "checkout": "new", "return": "new"}
IMAGES = {"return": "returns"}
GATEWAYS = 3
FOLDER = "/etc/gateway"


class ClusterEstate(Estate):
    """Its gateways are behind one service, `gateway`."""

    def __init__(
        self,
        directory: Path,
        cluster: Cluster,
        kubelet: Kubelet,
        kubeconfig: Path,
        *,
        soak_s: float,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.cluster, self.kubelet, self.kubeconfig = cluster, kubelet, kubeconfig
        state = {"SPLITCTL_STATE_DIR": str(directory / "state")}
        super().__init__(directory, soak_s=soak_s, settings=settings, environment=state)

    @property
    @abstractmethod
    def driver(self) -> list[str]:
        """Lines for [gateway] of the configuration, in the place of its driver."""

    @abstractmethod
    def start_gateways(self) -> list[str]:
        """Deploy them; returns the names of their Deployments."""

    @property
    def gateways(self) -> list[str]:
        """The gateways' service: it has the same address before there is a pod behind it."""
        return [self._address("gateway", app="gateway")]

    def start_old(self) -> None:
        """Partners, the order service, its jobs, and three gateways at 0 %."""
        for name in ("partners", "order", "checkout", "return"):
            self.cluster.apply(service(name, app=name))
        self._deploy("partners", {}, replicas=1)
        self._deploy("order", self._values("order"), replicas=2)
        names = self.start_gateways()
        self.await_deployed("partners", "order", *names)
        self.programs.start(self._jobs("jobs-order", "order", "old"))

    def start_new(self) -> None:
        """The checkout and the return service with their jobs; their tables must be there."""
        for name in ("checkout", "return"):
            self._deploy(name, self._values(name), replicas=2)
        self.await_deployed("checkout", "return")
        self.programs.start(
            self._jobs("jobs-checkout", "checkout", "new"),
            self._jobs("jobs-return", "return", "new"),
        )

    def await_deployed(self, *names: str) -> None:
        """Until every pod of these is there and ready."""
        for name in names:
            done = wait_until(lambda name=name: self.cluster.deployment(name).complete, DEPLOYED_S)
            assert done, (name, self.cluster.pods(f"app={name}"))

    def pages(self, name: str, path: str) -> list[str]:
        """The address of a page of each pod with the label app=NAME."""
        pods = self.cluster.pods(f"app={name}")
        return [f"http://{pod.ip}:{PORT}{path}" for pod in pods if not pod.ending]

    def _address(self, name: str, **selector: str) -> str:
        self.cluster.apply(service(name, **selector))

        def known() -> bool:
            try:
                return bool(self.kubelet.service(name))
            except KeyError:
                return False

        assert wait_until(known, DEPLOYED_S)
        return f"http://{self.kubelet.service(name)}"

    def _values(self, name: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self._url(name),
            "PARTNERS_URL": "http://partners",
            "ORDER_URL": "http://order",
            "OWNER_SIDE": OWNED[name],
            "FAULT_ADMIN": "1",
        }

    def gateway_values(self) -> dict[str, str]:
        """The environment of a gateway, but for its flags."""
        return {
            "ORDER_URL": "http://order",
            "CHECKOUT_URL": "http://checkout",
            "RETURN_URL": "http://return",
            "GATEWAY_ADMIN_TOKEN": self.token,
            "OWNERS_REFUSE": "true",
            "DRAIN_S": DRAIN_S,
        }

    def _deploy(self, name: str, values: dict[str, str], *, replicas: int) -> None:
        image = f"splitctl/{IMAGES.get(name, name)}:1"
        self.cluster.apply(deployment(name, image, values, replicas=replicas))

    def _write_config(self) -> None:
        super()._write_config()
        text = self.config.read_text(encoding="utf-8")
        text = text.replace('driver = "admin"', "\n".join(self.driver), 1)
        # Where the sides are asked directly: the services' own addresses.
        for name in OWNED:
            address = self._address(name, app=name)
            text = text.replace(f'"{self.ports.url(name)}"', f'"{address}"')
        text += f'\n[cluster]\nkubeconfig = "{self.kubeconfig}"\n'
        text += f'namespace = "{self.cluster.namespace}"\n'
        self.config.write_text(text, encoding="utf-8")


class UnfencedEstate(ClusterEstate):
    """One Deployment of gateways. Services refuse whom they do not own."""

    @property
    def driver(self) -> list[str]:
        """What each of them needs."""
        return ['deployment = "gateway"', "owners_refuse = true", f"port = {PORT}", 'settle = "2m"']

    @property
    def metrics_urls(self) -> list[str]:
        """None: gateways come and go with each change, the cluster tells where they are."""
        return []

    @abstractmethod
    def apply_flags(self, manager: str, values: dict[str, str]) -> None:
        """Somebody with a manager of his own sets these, by force, and gives up all others."""

    @abstractmethod
    def one_stuck(self) -> AbstractContextManager[Callable[[], str]]:
        """One gateway does not follow the next change; gives the name of its pod."""


class EnvironmentEstate(UnfencedEstate):
    """Flags are variables of the Deployment."""

    @property
    def driver(self) -> list[str]:
        """[gateway] of the configuration."""
        return ['driver = "environment"', *super().driver]

    def start_gateways(self) -> list[str]:
        """One Deployment, its flags in the environment."""
        values = {**self.gateway_values(), **FLAGS}
        self._deploy("gateway", values, replicas=GATEWAYS)
        return ["gateway"]

    def apply_flags(self, manager: str, values: dict[str, str]) -> None:
        """As variables."""
        env = [variable(name, value) for name, value in values.items()]
        manifest: Object = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "gateway"},
            "spec": {"template": {"spec": {"containers": [{"name": "gateway", "env": env}]}}},
        }
        self.cluster.apply(manifest, manager=manager, force=True)

    @contextmanager
    def one_stuck(self) -> Iterator[Callable[[], str]]:
        """The next pod never starts."""
        before = {pod.name for pod in self.cluster.pods("app=gateway")}

        def its_name() -> str:
            return next(
                pod.name for pod in self.cluster.pods("app=gateway") if pod.name not in before
            )

        self.kubelet.pause(lambda name: name.startswith("gateway-"))
        try:
            yield its_name
        finally:
            self.kubelet.go_on()


class MountedEstate(UnfencedEstate):
    """Flags are files from a ConfigMap."""

    @property
    def driver(self) -> list[str]:
        """[gateway] of the configuration."""
        return ['driver = "config-map"', 'config_map = "flags"', *super().driver]

    def start_gateways(self) -> list[str]:
        """One Deployment, which reads its flags from a folder."""
        self.cluster.apply(config_map("flags", **FLAGS))
        values = {**self.gateway_values(), "FLAGS_DIR": FOLDER}
        manifest = deployment("gateway", "splitctl/gateway:1", values, replicas=GATEWAYS)
        self.cluster.apply(mounted(manifest, "flags", FOLDER))
        return ["gateway"]

    def apply_flags(self, manager: str, values: dict[str, str]) -> None:
        """As keys of the ConfigMap."""
        self.cluster.apply(config_map("flags", **values), manager=manager, force=True)

    @contextmanager
    def one_stuck(self) -> Iterator[Callable[[], str]]:
        """Its files stay as they are."""
        stuck = self.cluster.pods("app=gateway")[0].name
        self.kubelet.freeze(lambda name: name == stuck)
        try:
            yield lambda: stuck
        finally:
            self.kubelet.go_on()


class FencedEstate(ClusterEstate):
    """Each gateway has an endpoint of its own, and a fence. Nobody is refused by a service."""

    @property
    def _names(self) -> list[str]:
        return [f"gateway-{number}" for number in range(1, GATEWAYS + 1)]

    @property
    def gateways(self) -> list[str]:
        """Each by its own service."""
        return [self._address(name, app=name) for name in self._names]

    @property
    def driver(self) -> list[str]:
        """[gateway] of the configuration."""
        return ['driver = "admin"']

    def start_gateways(self) -> list[str]:
        """A Deployment of one pod for each, so that each keeps its address."""
        refusing = self.gateway_values()
        del refusing["OWNERS_REFUSE"]
        for name in self._names:
            manifest = deployment(name, "splitctl/gateway:1", {**refusing, **FLAGS}, replicas=1)
            self.cluster.apply(manifest)
        return self._names

    def _values(self, name: str) -> dict[str, str]:
        values = super()._values(name)
        del values["OWNER_SIDE"]
        return values
