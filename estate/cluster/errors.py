"""The ways in which a cluster can say no."""

from estate.errors import ExitCode, SplitctlError


class ClusterConfigInvalid(SplitctlError):
    """How to reach the cluster cannot be read: {reason}."""

    hint = "kubectl config view, then [cluster] in the configuration"
    exit_code = ExitCode.PRECONDITION


class ClusterUnreachable(SplitctlError):
    """The cluster at {server} does not answer: {reason}. Whether the last request was done is not
    known."""

    hint = "kubectl version, then the same command again"
    exit_code = ExitCode.PRECONDITION


class ClusterUnauthorized(SplitctlError):
    """The cluster at {server} does not know who we are: the credentials are wrong or
    out of date."""

    hint = "kubectl auth can-i --list"
    exit_code = ExitCode.PRECONDITION


class ClusterForbidden(SplitctlError):
    """The cluster refuses to {verb} {resource} in namespace {namespace}. Missing is this rule:
    apiGroups ["{group}"], resources ["{resource}"], verbs ["{verb}"]."""

    hint = (
        "an administrator adds the rule (deploy/base/rbac.yaml has them all), then: splitctl doctor"
    )
    exit_code = ExitCode.PRECONDITION


class ClusterConflict(SplitctlError):
    """{kind} {name} was not changed: {fields} stand under another field manager, {managers}."""

    hint = "ask who runs {managers}; kubectl get {kind} {name} -o yaml --show-managed-fields"
    exit_code = ExitCode.PRECONDITION


class ClusterChanged(SplitctlError):
    """{kind} {name} was changed by somebody else in the same moment, again and again."""

    hint = "the same command again"
    exit_code = ExitCode.PRECONDITION


class ClusterRefused(SplitctlError):
    """The cluster refused {kind} {name}: {reason}."""

    hint = "mend the manifest, or ask who administers the cluster"
    exit_code = ExitCode.PRECONDITION


class ClusterLacks(SplitctlError):
    """There is no {kind} {name} in namespace {namespace}."""

    hint = "kubectl get {kind}"
    exit_code = ExitCode.PRECONDITION


class ClusterKindUnknown(SplitctlError):
    """This cluster has no kind {kind} in {api_version}: it is too old, or the definition of a
    custom resource is not installed."""

    hint = "kubectl api-resources"
    exit_code = ExitCode.PRECONDITION
