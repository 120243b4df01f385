"""What a service cannot do, as an answer: {"error": word, "detail": sentence}."""


class Problem(Exception):
    """A refusal. `error` is a fixed word for programs, `detail` a sentence for people."""

    status = 500

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(f"{error}: {detail}")
        self.error = error
        self.detail = detail

    def json(self) -> dict[str, str]:
        """The body of the answer."""
        return {"error": self.error, "detail": self.detail}


class BadRequest(Problem):
    """The request cannot be understood."""

    status = 400


class NotFound(Problem):
    """There is no such thing, or it belongs to somebody else."""

    status = 404


class Gone(Problem):
    """It was here once, and is served elsewhere now."""

    status = 410


class Conflict(Problem):
    """The thing is not in a state in which this can be done."""

    status = 409


class Unprocessable(Problem):
    """The request is understood, but what it asks for is not possible."""

    status = 422


class Unavailable(Problem):
    """A part the service depends on did not answer."""

    status = 503
