"""A whole estate in one directory: databases, schemas, configuration, programs."""

import contextlib
import secrets
import subprocess
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from rehearsal import configuration, shipped
from rehearsal.children import Children, end_leftovers
from rehearsal.postgres import Server, free_port, start_all
from rehearsal.processes import Program, Programs, module

TOOL = "splitctl"
LEDGER = "splitctl_ledger"
SIDES = {"order": "order_app", "checkout": "checkout_app", "return": "return_app"}
FOLDERS = {"order": "order", "checkout": "checkout", "return": "returns"}
FLAGS = {
    "USE_CHECKOUT_SERVICE": "true",
    "CHECKOUT_TRAFFIC_PERCENTAGE": "0",
    "USE_RETURN_SERVICE": "true",
    "RETURN_TRAFFIC_PERCENTAGE": "0",
}
JOB_INTERVAL_S = "2"
# Customers, services, servers and the verifier share one machine here: what the gate sees is the
# machine. It still has to be there, and to notice a service that hangs.
LATENCY_MS = 1500
SERVICES = Path(__file__).parent.parent / "services"


class GrantsFailed(Exception):
    """The grants script could not be printed; the message is what the command said."""


@dataclass
class Ports:
    """One port for each program, chosen once so that every address is known before all start."""

    taken: dict[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        """The port of a program."""
        while name not in self.taken:
            port = free_port()
            if port not in self.taken.values():
                self.taken[name] = port
        return self.taken[name]

    def url(self, name: str) -> str:
        """The address of a program."""
        return f"http://127.0.0.1:{self.of(name)}"


class Estate:
    """Builds, starts and ends the estate of the order split. Nothing here outlives the process.

    In order: `start_databases`, `prepare_old`, (seed), `start_old`, `start_sync` once sync is
    enabled, `start_new` once the new schemas are there, `stop`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        soak_s: float = 20.0,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` go to PostgreSQL, `environment` to every program. DIR is made if need be."""
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ended = end_leftovers(self.directory)
        self.children = Children(self.directory)
        self.programs = Programs(self.children)
        self.ports = Ports()
        self.token = secrets.token_urlsafe(24)
        self.servers = {
            name: Server(
                name,
                self.directory / "databases" / name,
                children=self.children,
                settings=settings,
            )
            for name in SIDES
        }
        self._soak_s = soak_s
        self._environment = dict(environment or {})

    @property
    def config(self) -> Path:
        """The configuration for every `splitctl` command against this estate."""
        return self.directory / "config.toml"

    @property
    def gateways(self) -> list[str]:
        """The addresses that customers, and the tool, use."""
        return [self.ports.url("gateway-1"), self.ports.url("gateway-2")]

    @property
    def metrics_urls(self) -> list[str]:
        """The gateways' pages, where they are known beforehand."""
        return [f"{url}/metrics" for url in self.gateways]

    @property
    def sync_url(self) -> str:
        """The health and metrics address of `splitctl sync run`."""
        return self.ports.url("sync")

    @property
    def domains(self) -> list[str]:
        """The domains of the configuration, in its order."""
        return list(tomllib.loads(shipped.configuration())["domains"])

    def database(self, name: str, role: str | None = None) -> str:
        """A connection string to `order`, `checkout` or `return`, as the superuser by default."""
        return self.servers[name].dsn(f"{name}_db", role or "postgres")

    def start_databases(self) -> None:
        """Three servers with their databases and roles, and the configuration of the tool."""
        start_all(list(self.servers.values()))
        for name, role in SIDES.items():
            with psycopg.connect(self.servers[name].dsn(), autocommit=True) as connection:
                owner = sql.Identifier(role)
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(owner))
                database = sql.Identifier(f"{name}_db")
                create = sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner)
                connection.execute(create)
        self._write_config()
        with ThreadPoolExecutor(max_workers=len(SIDES)) as pool:
            list(pool.map(self._grant, SIDES))
        with psycopg.connect(self.servers["order"].dsn(), autocommit=True) as connection:
            names = sql.Identifier(LEDGER), sql.Identifier(TOOL)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))

    def prepare_old(self) -> None:
        """The old schema, as the order service owns it."""
        folder = SERVICES / FOLDERS["order"] / "migrations"
        apply_migrations(folder, self.database("order", SIDES["order"]))

    def start_old(self) -> None:
        """Partners, the order service with its jobs, and the two gateways at 0 %."""
        self.programs.start(
            self._service("partners", "partners"),
            self._service("order", "order"),
            self._jobs("jobs-order", "order", "old"),
            *(self._gateway(name) for name in ("gateway-1", "gateway-2")),
        )

    def start_new(self) -> None:
        """The checkout and the return service with their jobs; their tables must be there."""
        self.programs.start(
            self._service("checkout", "checkout"),
            self._service("return", "returns"),
            self._jobs("jobs-checkout", "checkout", "new"),
            self._jobs("jobs-return", "return", "new"),
        )

    def start_sync(self) -> None:
        """`splitctl sync run`, until it is stopped."""
        command = module("splitctl", "sync", "run", "--config", str(self.config))
        ready = f"{self.sync_url}/health/live"
        self.programs.start(Program("sync", command, self._environment, ready))

    def start_shoppers(self, shoppers: int, seed: int) -> None:
        """Customers at both gateways, until they are stopped."""
        command = module("rehearsal.shoppers", "--dir", str(self.directory))
        command += ["--shoppers", str(shoppers), "--seed", str(seed)]
        for url in self.gateways:
            command += ["--gateway", url]
        self.programs.start(Program("shoppers", command, self._environment))

    def stop(self) -> None:
        """End everything: customers first, databases last."""
        with contextlib.suppress(KeyError):
            self.programs.stop("shoppers")
        others = [name for name in self.children.names() if not name.startswith("postgres-")]
        self.programs.stop(*others)
        self.children.stop(*self.children.names())
        self.children.remove_directories()

    def _service(self, name: str, package: str) -> Program:
        values = {
            "PORT": str(self.ports.of(name)),
            "PARTNERS_URL": self.ports.url("partners"),
            "ORDER_URL": self.ports.url("order"),
        }
        if name in SIDES:
            values["DATABASE_URL"] = self._url(name)
        ready = f"{self.ports.url(name)}/health/ready"
        return Program(name, module(f"services.{package}"), values | self._environment, ready)

    def _gateway(self, name: str) -> Program:
        values = {
            "PORT": str(self.ports.of(name)),
            "INSTANCE": name,
            "ORDER_URL": self.ports.url("order"),
            "CHECKOUT_URL": self.ports.url("checkout"),
            "RETURN_URL": self.ports.url("return"),
            "GATEWAY_ADMIN_TOKEN": self.token,
            **FLAGS,
        }
        ready = f"{self.ports.url(name)}/health/ready"
        return Program(name, module("services.gateway"), values | self._environment, ready)

    def _jobs(self, name: str, database: str, side: str) -> Program:
        values = {
            "PORT": str(self.ports.of(name)),
            "DATABASE_URL": self._url(database),
            "PARTNERS_URL": self.ports.url("partners"),
            "ORDER_URL": self.ports.url("order"),
            "JOBS": "cleanup,outbox,compensation",
            "INTERVAL_S": JOB_INTERVAL_S,
        }
        command = module("services.jobs", "--side", side)
        ready = f"{self.ports.url(name)}/health/live"
        return Program(name, command, values | self._environment, ready)

    def _url(self, name: str) -> str:
        """A service logs in as the role that owns its tables."""
        return f"postgresql://{SIDES[name]}@127.0.0.1:{self.servers[name].port}/{name}_db"

    def _write_config(self) -> None:
        text = shipped.configuration()
        parsed = tomllib.loads(text)
        toml = configuration.toml
        ledger = self.servers["order"].dsn(LEDGER, TOOL)
        places = {"ledger": ledger} | {name: self.database(name, TOOL) for name in SIDES}
        references = {
            name: configuration.write_secret(self.directory, f"{name}.dsn", dsn)
            for name, dsn in places.items()
        }
        token = configuration.write_secret(self.directory, "gateway.token", self.token)
        values: dict[configuration.Key, str] = {
            ("", "environment"): toml("rehearsal"),
            ("ledger", "dsn"): toml(references["ledger"]),
            ("gateway", "urls"): toml(self.gateways),
            ("gateway", "token"): toml(token),
            ("gates", "max_ms"): toml(LATENCY_MS),  # the first of its name: latency
            ("metrics", "urls"): toml(self.metrics_urls),
            ("sync", "listen"): toml(f"127.0.0.1:{self.ports.of('sync')}"),
        }
        for name in SIDES:
            values[f"databases.{name}", "dsn"] = toml(references[name])
        for name, domain in parsed["domains"].items():
            values[f"domains.{name}", "phases"] = configuration.phases(domain, self._soak_s)
            for side in ("old", "new"):
                values[f"flows.urls.{name}", side] = toml(self.ports.url(domain[side]))
        self.config.write_text(configuration.rewrite(text, values), encoding="utf-8")
        shipped.copy_named(self.directory)

    def _grant(self, name: str) -> None:
        """What a DBA does: print the script, read it, run it."""
        command = module("splitctl", "sync", "grants", name, "--config", str(self.config))
        printed = subprocess.run(command, capture_output=True, text=True, check=False)
        if printed.returncode != 0:
            raise GrantsFailed(printed.stderr.strip() or printed.stdout.strip())
        with psycopg.connect(self.database(name), autocommit=True) as connection:
            connection.execute(printed.stdout.encode())


def apply_migrations(folder: Path, dsn: str) -> None:
    """Run the alembic migrations of a folder to the newest, as the role of the connection."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from estate import revisions

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool
    )
    with engine.begin() as connection:
        revisions.upgrade(connection, folder)
