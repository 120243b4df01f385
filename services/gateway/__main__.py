"""`python -m services.gateway`: the gateway as a process, configured by its environment.

PORT, INSTANCE, ORDER_URL, CHECKOUT_URL, RETURN_URL, GATEWAY_ADMIN_TOKEN, and the flags:
USE_CHECKOUT_SERVICE, CHECKOUT_TRAFFIC_PERCENTAGE, USE_RETURN_SERVICE, RETURN_TRAFFIC_PERCENTAGE.
CHECKOUT_TRAFFIC_EPOCH, RETURN_TRAFFIC_EPOCH (default 0) order the changes of a flag.
CHECKOUT_DEFAULT, RETURN_DEFAULT (old or new; default old): the side of everybody where no flag of
the domain stands. CHECKOUT_OLD_URL, RETURN_OLD_URL (default ORDER_URL): the domain's old side.
FLAGS_DIR: a directory with files of these names, which change the flags while it runs.
OWNERS_REFUSE=true: all services run with OWNER_SIDE, so a 421 sends a request to the other side.
HOST (default 127.0.0.1) is the address to listen on. SIGTERM ends it gracefully: for DRAIN_S
seconds (default 0) it is not ready, answers all the same, and closes each connection after it.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import uvicorn

from services.gateway.app import Gateway, Settings
from services.gateway.flags import FlagsInvalid, from_environment, truth

NEEDED = ("PORT", "ORDER_URL", "CHECKOUT_URL", "RETURN_URL", "GATEWAY_ADMIN_TOKEN")
# Where the old side of a domain is not the service of the orders any more.
OLD_URLS = {"checkout": "CHECKOUT_OLD_URL", "return": "RETURN_OLD_URL"}
# Longer than any client's pool keeps an idle connection, so that the client is the one to close.
IDLE_SECONDS = 75


class Server(uvicorn.Server):
    """Releases the held requests before it waits for the requests under way."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_s: float) -> None:
        super().__init__(config)
        self._gateway, self._drain_s = gateway, drain_s
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: end gracefully, exit code 0. Second: at once."""
        self.force_exit, self._told = self._told, True
        if self.force_exit:
            self.should_exit = True
        self._gateway.interrupt(self._drain_s, self._end)

    def _end(self) -> None:
        self.should_exit = True


def settings(environment: Mapping[str, str]) -> Settings:
    """Settings from the environment. Raises FlagsInvalid, ValueError (what is missing)."""
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise ValueError("not set: " + ", ".join(missing))
    return Settings(
        instance=environment.get("INSTANCE", f"gateway-{environment['PORT']}"),
        token=environment["GATEWAY_ADMIN_TOKEN"],
        order_url=environment["ORDER_URL"],
        old_urls={
            domain: url
            for domain, name in OLD_URLS.items()
            if (url := environment.get(name, "").strip())
        },
        new_urls={"checkout": environment["CHECKOUT_URL"], "return": environment["RETURN_URL"]},
        flags=from_environment(environment),
        owners_refuse=truth(environment, "OWNERS_REFUSE"),
        flags_folder=Path(folder) if (folder := environment.get("FLAGS_DIR")) else None,
    )


def main() -> int:
    """Run until a signal. Returns the exit code."""
    try:
        gateway = Gateway(settings(os.environ))
        port = int(os.environ["PORT"])
        drain_s = float(os.environ.get("DRAIN_S") or 0)
    except (ValueError, FlagsInvalid) as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201
        return 2
    config = uvicorn.Config(
        gateway,
        host=os.environ.get("HOST", "127.0.0.1"),
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=30,
    )
    Server(config, gateway, drain_s).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
