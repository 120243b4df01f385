"""The order split on the cluster: services and gateways as pods, all else as it always is."""

from pathlib import Path

from estate.cluster import Cluster, Object
from rehearsal.children import wait_until
from rehearsal.estate import FLAGS, Estate
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, field, variable

DEPLOYED_S = 60.0
DRAIN_S = "1"
OWNED = {"order": "old", "checkout": "new", "return": "new"}
IMAGES = {"return": "returns"}


class ClusterEstate(Estate):
    """Flags are variables of the gateways' Deployment. Services refuse whom they do not own."""

    def __init__(
        self,
        directory: Path,
        cluster: Cluster,
        kubelet: Kubelet,
        kubeconfig: Path,
        *,
        soak_s: float,
    ) -> None:
        self.cluster, self.kubelet, self.kubeconfig = cluster, kubelet, kubeconfig
        state = {"SPLITCTL_STATE_DIR": str(directory / "state")}
        super().__init__(directory, soak_s=soak_s, environment=state)

    @property
    def gateways(self) -> list[str]:
        """The gateways' service: it has the same address before there is a pod behind it."""
        return [self._address("gateway")]

    def _address(self, name: str) -> str:
        self._service_of(name)
        assert wait_until(lambda: self._has_address(name), DEPLOYED_S)
        return f"http://{self.kubelet.service(name)}"

    def _has_address(self, name: str) -> bool:
        try:
            return bool(self.kubelet.service(name))
        except KeyError:
            return False

    def start_old(self) -> None:
        """Partners, the order service, its jobs, and three gateways at 0 %."""
        for name in ("partners", "order", "checkout", "return"):
            self._service_of(name)
        self._deploy("partners", {}, replicas=1)
        self._deploy("order", self._values("order"), replicas=2)
        values = {
            "ORDER_URL": "http://order",
            "CHECKOUT_URL": "http://checkout",
            "RETURN_URL": "http://return",
            "GATEWAY_ADMIN_TOKEN": self.token,
            "OWNERS_REFUSE": "true",
            "DRAIN_S": DRAIN_S,
        }
        self._deploy("gateway", {**values, **FLAGS}, replicas=3)
        self.await_deployed("partners", "order", "gateway")
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

    def _values(self, name: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self._url(name),
            "PARTNERS_URL": "http://partners",
            "ORDER_URL": "http://order",
            "OWNER_SIDE": OWNED[name],
            "FAULT_ADMIN": "1",
        }

    def _deploy(self, name: str, values: dict[str, str], *, replicas: int) -> None:
        env = [field("HOST", "status.podIP"), variable("PORT", str(PORT))]
        env += [variable(key, value) for key, value in values.items()]
        container: Object = {
            "name": name,
            "image": f"splitctl/{IMAGES.get(name, name)}:1",
            "env": env,
            "readinessProbe": {
                "httpGet": {"path": "/health/ready", "port": PORT},
                "periodSeconds": 1,
                "failureThreshold": 2,
            },
        }
        spec: Object = {"terminationGracePeriodSeconds": 20, "containers": [container]}
        labels = {"app": name}
        rolling = {"maxUnavailable": 0, "maxSurge": 1}
        manifest: Object = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
        self.cluster.apply(manifest)

    def _service_of(self, name: str) -> None:
        ports = [{"port": 80, "targetPort": PORT, "protocol": "TCP"}]
        manifest: Object = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": ports},
        }
        self.cluster.apply(manifest)

    def _write_config(self) -> None:
        super()._write_config()
        text = self.config.read_text(encoding="utf-8")
        places = ['driver = "environment"', 'deployment = "gateway"', "owners_refuse = true"]
        places += [f"port = {PORT}", 'settle = "2m"']
        text = text.replace('driver = "admin"', "\n".join(places), 1)
        text = text.replace(f'urls = ["{self.gateways[0]}/metrics"]', "urls = []", 1)
        # Where the sides are asked directly: the services' own addresses.
        for name in OWNED:
            text = text.replace(f'"{self.ports.url(name)}"', f'"{self._address(name)}"')
        # Each phase is a rolling restart of all gateways for each domain.
        text = text.replace(f'{{ percentage = 50, soak = "{self._soak_s:g}s" }}, ', "")
        text += f'\n[cluster]\nkubeconfig = "{self.kubeconfig}"\n'
        text += f'namespace = "{self.cluster.namespace}"\n'
        self.config.write_text(text, encoding="utf-8")
