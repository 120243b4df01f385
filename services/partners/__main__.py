"""`python -m services.partners`: all partners as one process. Environment: PORT, HOST."""

import os
import sys

import uvicorn

from services.partners.app import Partners
from services.partners.goods import Catalog


def main() -> int:
    """Run until SIGTERM; requests under way are answered first. Returns the exit code."""
    port = os.environ.get("PORT", "8090")
    if not port.isdigit():
        print("partners: PORT is not a number", file=sys.stderr)  # noqa: T201
        return 2
    uvicorn.run(
        Partners(Catalog()).app(),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
