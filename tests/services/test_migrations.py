"""The schemas of the three databases: up, down and up again, and the rules the new ones keep."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.types.json import Jsonb

from tests.conftest import FreshDatabase

SERVICES = Path(__file__).parents[2] / "services"
TABLES = {
    "order": {
        "orders",
        "order_items",
        "cart_sessions",
        "cart_items",
        "checkout_sessions",
        "return_requests",
        "return_items",
        "outbox",
    },
    "checkout": {
        "carts",
        "cart_items",
        "cart_promotions",
        "checkouts",
        "checkout_addresses",
        "event_idempotency",
        "failed_events",
        "outbox",
    },
    "return": {
        "return_requests",
        "return_items",
        "return_status_history",
        "return_refunds",
        "return_shipping",
        "event_idempotency",
        "failed_events",
        "outbox",
    },
}
DIRECTORIES = {"order": "order", "checkout": "checkout", "return": "returns"}
REVISIONS = {"order": 1, "checkout": 7, "return": 5}
CART = "5f0c6a52-8a3e-4f5c-9d5e-1c2b3a4d5e6f"
Databases = dict[str, FreshDatabase]


def script_config(service: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SERVICES / DIRECTORIES[service] / "migrations"))
    return config


def migrate(
    service: str, database: FreshDatabase, act: Callable[[Config, str], None], revision: str
) -> None:
    """Run an alembic command on a connection handed over, as another program does."""
    config = script_config(service)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(database.dsn)
    )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        act(config, revision)
    engine.dispose()


def names(database: FreshDatabase, query: str) -> set[str]:
    with database.connect() as connection:
        return {name for (name,) in connection.execute(query.encode()).fetchall()}


def tables(database: FreshDatabase) -> set[str]:
    return names(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def functions(database: FreshDatabase) -> set[str]:
    return names(
        database, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )


@pytest.mark.parametrize("service", TABLES)
def test_up_down_and_up_again(service: str, fresh_databases: Databases) -> None:
    database = fresh_databases[service]
    for _ in range(2):
        migrate(service, database, command.upgrade, "head")
        assert tables(database) == TABLES[service] | {"alembic_version"}
        migrate(service, database, command.downgrade, "base")
        assert tables(database) == {"alembic_version"}
        assert functions(database) == set()


@pytest.mark.parametrize("service", TABLES)
def test_each_revision_goes_back_alone(service: str, fresh_databases: Databases) -> None:
    database = fresh_databases[service]
    revisions = list(ScriptDirectory.from_config(script_config(service)).walk_revisions())
    assert len(revisions) == REVISIONS[service]
    for _ in revisions:
        before = tables(database), functions(database)
        migrate(service, database, command.upgrade, "+1")
        migrate(service, database, command.downgrade, "-1")
        left = tables(database) - {"alembic_version"}, functions(database)
        assert left == (before[0] - {"alembic_version"}, before[1])
        migrate(service, database, command.upgrade, "+1")


def test_the_environment_names_the_database(
    fresh_databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_databases["checkout"]
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    command.upgrade(script_config("checkout"), "head")
    assert tables(database) >= TABLES["checkout"]


def test_without_a_database_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(SystemExit, match="DATABASE_URL"):
        command.upgrade(script_config("checkout"), "head")


@pytest.fixture
def checkout(fresh_databases: Databases) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection to a migrated checkout database with one cart that came from the old side."""
    migrate("checkout", fresh_databases["checkout"], command.upgrade, "head")
    connection = fresh_databases["checkout"].connect()
    connection.execute(
        "INSERT INTO carts (id, session_id, guest_token, metadata) VALUES (%s, 's', 'g', %s)",
        [CART, Jsonb({"promotions": [], "note": 1})],
    )
    return connection


def add(connection: psycopg.Connection[tuple[Any, ...]], *codes: str) -> None:
    for code in codes:
        connection.execute(
            "INSERT INTO cart_promotions (cart_id, position, code, type, discount_amount)"
            " SELECT %s, 1 + count(*), %s, 'fixed', 5 FROM cart_promotions",
            [CART, code],
        )


def test_a_cart_with_promotions_keeps_no_other_list(
    checkout: psycopg.Connection[tuple[Any, ...]],
) -> None:
    add(checkout, "A")
    assert checkout.execute("SELECT metadata FROM carts").fetchone() == ({"note": 1},)


def test_promotions_have_no_gaps(checkout: psycopg.Connection[tuple[Any, ...]]) -> None:
    add(checkout, "A", "B", "A", "C", "D")
    checkout.execute("DELETE FROM cart_promotions WHERE code = 'A'")
    rows = checkout.execute("SELECT position, code FROM cart_promotions ORDER BY 1").fetchall()
    assert rows == [(1, "B"), (2, "C"), (3, "D")]


def test_a_changed_column_voids_what_legacy_said_of_it(
    checkout: psycopg.Connection[tuple[Any, ...]],
) -> None:
    checkout.execute(
        "INSERT INTO cart_promotions VALUES (%s, 1, 'A', NULL, 5.00, %s)",
        [CART, Jsonb({"discount_amount": "5.00", "by": "x"})],
    )
    checkout.execute("UPDATE cart_promotions SET discount_amount = 4, code = 'A'")
    assert checkout.execute("SELECT legacy FROM cart_promotions").fetchone() == ({"by": "x"},)


@pytest.mark.parametrize(
    ("customer", "legacy"),
    [
        (CART, CART),  # canonical: nothing is left to say
        (CART, CART.upper().replace("F", "E")),  # another customer
        (None, CART.upper()),
        (CART, "guest-17"),
    ],
)
def test_two_customer_columns_of_two_minds_are_refused(
    customer: str | None, legacy: str, checkout: psycopg.Connection[tuple[Any, ...]]
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        checkout.execute(
            "INSERT INTO carts (session_id, customer_id, legacy_customer_id) VALUES ('x', %s, %s)",
            [customer, legacy],
        )


@pytest.mark.parametrize(
    ("customer", "legacy", "key"),
    [
        (CART, None, CART),
        (CART, CART.upper(), CART),
        (None, "Guest-17", "guest-17"),
        (None, None, None),
    ],
)
def test_the_customer_key_is_in_lower_case(
    customer: str | None,
    legacy: str | None,
    key: str | None,
    checkout: psycopg.Connection[tuple[Any, ...]],
) -> None:
    row = checkout.execute(
        "INSERT INTO carts (session_id, customer_id, legacy_customer_id) VALUES ('x', %s, %s)"
        " RETURNING customer_key",
        [customer, legacy],
    ).fetchone()
    assert row == (key,)
