"""Where the programs of the test cluster are. `make system` builds them: `.ci/cluster`."""

import os
import time
from pathlib import Path

VERSION = "1.20.2"
REVISION = 2  # of the build
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
# On a machine of which the other tests have their share, too.
BUILD_S = 1500.0
OTHER_CLUSTER = "SPLITCTL_TEST_KUBECONFIG"


def directory() -> Path:
    """Their directory, whether it is there or not. The same as in `.ci/cluster`."""
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = os.environ.get("SPLITCTL_CACHE") or f"{caches}/splitctl"
    return Path(cache) / f"kubernetes-{VERSION}-{REVISION}" / "bin"


def await_build() -> None:
    """Wait while they are being built on this machine, for as long as a build may take."""
    building = directory().parent / "building"
    deadline = time.monotonic() + BUILD_S
    while missing() and time.monotonic() < deadline:
        try:
            os.kill(int(building.read_text(encoding="utf-8")), 0)
        except (OSError, ValueError):
            return  # nobody is at it
        time.sleep(1.0)


def missing() -> list[str]:
    """The programs that were not built yet."""
    return [name for name in PROGRAMS if not os.access(directory() / name, os.X_OK)]


def summary() -> str:
    """Which cluster could be tested on here, in a line."""
    if other := other_cluster():
        return f"on this machine: the cluster of {other}"
    if lacking := missing():
        return f"NOT TESTED here: no {', '.join(lacking)} in {directory()}: make system builds them"
    return f"on this machine: {VERSION}"


def other_cluster() -> Path | None:
    """The kubeconfig of a cluster that is to be used instead of our own."""
    given = os.environ.get(OTHER_CLUSTER)
    return Path(given).resolve() if given else None
