"""A real Kubernetes API server with its controllers, on free ports of this machine alone.

It has no scheduler and no kubelets: `tests.cluster.kubelet` runs pods as processes. Nothing here
outlives the process that started it.
"""

import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from estate.cluster.api import Api, connect
from estate.config import ClusterConfig
from rehearsal.children import Child, Children, wait_until
from rehearsal.postgres import free_port

READY_LIMIT_S = 90.0
TOKEN_LIMIT_S = 3600
LOCAL = "127.0.0.1"
# Controllers of parts that are not here: nodes come and go as the tests say.
CONTROLLERS = (
    "*,-nodelifecycle,-nodeipam,-cloud-node-lifecycle,-service,-route,-attachdetach,"
    "-persistentvolume-binder,-persistentvolume-expander,-ttl"
)
SUBJECTS = {
    "apiserver": "/CN=kube-apiserver",
    "admin": "/O=system:masters/CN=admin",
    "controllers": "/CN=system:kube-controller-manager",
}
NAMES = "IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc"


class NotReady(Exception):
    """A program of the cluster ended, or was not ready in time; with its last words."""


class Server:
    """etcd, API server and controller manager in one directory."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self._directory, self._binaries = directory.resolve(), binaries
        self._keys = self._directory / "keys"
        self._keys.mkdir(parents=True, exist_ok=True)
        self._children = Children(self._directory)
        self._port = free_port()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._directory / "admin.kubeconfig"

    def start(self) -> None:
        """Until the API server answers and the controllers work. Raises NotReady."""
        make_keys(self._keys)
        for user in ("admin", "controllers"):
            self._write_kubeconfig(user)
        etcd = f"http://{LOCAL}:{free_port()}"
        self._start_etcd(etcd)
        self._start_api_server(etcd)
        self._start_controllers()

    @contextmanager
    def away(self) -> Iterator[None]:
        """The API server answers nobody meanwhile; connections stay open, as at a dead host."""
        child = self._children.get("kube-apiserver")
        child.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            child.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End everything, the API server before its store."""
        self._children.stop_all()

    def _start_etcd(self, url: str) -> None:
        peers = f"http://{LOCAL}:{free_port()}"
        options = {
            "data-dir": str(self._directory / "etcd"),
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
        }
        self._start("etcd", ["--unsafe-no-fsync", *_options(options)])

    def _start_api_server(self, etcd: str) -> None:
        options = {
            "etcd-servers": etcd,
            "bind-address": LOCAL,
            "advertise-address": LOCAL,
            "secure-port": str(self._port),
            # A loopback address is no endpoint for the `kubernetes` service.
            "endpoint-reconciler-type": "none",
            "tls-cert-file": self._key("apiserver.crt"),
            "tls-private-key-file": self._key("apiserver.key"),
            "client-ca-file": self._key("ca.crt"),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-signing-key-file": self._key("accounts.key"),
            "service-account-key-file": self._key("accounts.pub"),
            "service-cluster-ip-range": "10.96.0.0/16",
            "authorization-mode": "RBAC",
            "cert-dir": str(self._directory / "apiserver"),
        }
        child = self._start("kube-apiserver", _options(options))
        context = ssl.create_default_context(cafile=self._key("ca.crt"))
        context.load_cert_chain(self._key("admin.crt"), self._key("admin.key"))
        with httpx.Client(verify=context, timeout=2.0) as client:

            def answers() -> bool:
                try:
                    found = client.get(f"https://{LOCAL}:{self._port}/readyz")
                except httpx.HTTPError:
                    return False
                return found.status_code == httpx.codes.OK

            _await(child, answers)

    def _start_controllers(self) -> None:
        kubeconfig = str(self._directory / "controllers.kubeconfig")
        options = {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": LOCAL,
            "secure-port": str(free_port()),
            "port": "0",  # else it listens on every address of the machine
            "leader-elect": "false",
            # Without it the controllers are refused by RBAC.
            "use-service-account-credentials": "true",
            "service-account-private-key-file": self._key("accounts.key"),
            "root-ca-file": self._key("ca.crt"),
            "cert-dir": str(self._directory / "controllers"),
            "controllers": CONTROLLERS,
        }
        child = self._start("kube-controller-manager", _options(options))
        admin = open_api(self.kubeconfig)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        _await(child, lambda: admin.call("GET", account) is not None)

    def _start(self, program: str, options: list[str]) -> Child:
        return self._children.start(program, [str(self._binaries / program), *options])

    def _key(self, name: str) -> str:
        return str(self._keys / name)

    def _write_kubeconfig(self, user: str) -> None:
        where = f"https://{LOCAL}:{self._port}"
        cluster = {"server": where, "certificate-authority": self._key("ca.crt")}
        keys = {
            "client-certificate": self._key(f"{user}.crt"),
            "client-key": self._key(f"{user}.key"),
        }
        write_kubeconfig(self._directory / f"{user}.kubeconfig", cluster, keys, "default")


def _options(values: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _await(child: Child, condition: object) -> None:
    assert callable(condition)
    if not wait_until(lambda: child.ended() is not None or condition(), READY_LIMIT_S):
        raise NotReady(f"{child.name} was not ready in {READY_LIMIT_S:g} s:\n{child.last_words()}")
    if child.ended() is not None:
        raise NotReady(f"{child.name} ended with {child.ended()}:\n{child.last_words()}")


def open_api(kubeconfig: Path, namespace: str = "default") -> Api:
    """The API server as the user of a kubeconfig."""
    return connect(ClusterConfig(kubeconfig=kubeconfig, namespace=namespace))


def write_kubeconfig(path: Path, cluster: object, user: object, namespace: str) -> Path:
    """A kubeconfig with one cluster and one user."""
    context = {"cluster": "tests", "user": "tests", "namespace": namespace}
    data = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": user}],
        "contexts": [{"name": "tests", "context": context}],
        "current-context": "tests",
    }
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    path.chmod(0o600)
    return path


def account_kubeconfig(admin: Path, namespace: str, account: str, path: Path) -> Path:
    """The kubeconfig of a service account, with a token of its own."""
    api = open_api(admin, namespace)
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": TOKEN_LIMIT_S},
    }
    where = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    answer = api.call("POST", where, body=request)
    assert answer is not None, f"there is no service account {account}"
    entry = yaml.safe_load(admin.read_text(encoding="utf-8"))["clusters"][0]["cluster"]
    return write_kubeconfig(path, entry, {"token": answer["status"]["token"]}, namespace)


def make_keys(directory: Path) -> None:
    """An authority, the server's and two users' certificates, and the service accounts' key."""

    def openssl(*arguments: str) -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)

    request = ("req", "-newkey", "rsa:2048", "-nodes")
    authority = ("-subj", "/CN=splitctl-tests", "-keyout", "ca.key", "-out", "ca.crt")
    openssl(*request, "-x509", "-days", "30", *authority)
    for name, subject in SUBJECTS.items():
        (directory / f"{name}.ext").write_text(
            f"subjectAltName={NAMES}\n"
            "keyUsage=digitalSignature,keyEncipherment\n"
            "extendedKeyUsage=serverAuth,clientAuth\n",
            encoding="utf-8",
        )
        openssl(*request, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ("-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key")
        made = ("-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        openssl("x509", *signing, *made)
    openssl("genrsa", "-out", "accounts.key", "2048")
    openssl("rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
