"""The cluster: how it is reached."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from estate.config.model import Model, beside


class ClusterConfig(Model):
    """The Kubernetes cluster of the estate.

    Without `kubeconfig`: inside a pod its service account, elsewhere what kubectl would take.
    Without `namespace`: the context's own. `request_s`: the longest that one request may take.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    request_s: float = Field(default=10, gt=0, le=60)

    @field_validator("kubeconfig")
    @classmethod
    def _relative_to_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else beside(value, info)
