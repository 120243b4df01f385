"""The order split's mappings: every row goes there and back exactly, and no key needs a scan.

"Exactly" is stricter than by value: the text forms of all columns are compared.
"""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql
from sqlalchemy import create_engine

from estate import catalog
from estate import config as estate_config
from estate.config import MappingConfig
from migrator.mapping import shape, streams
from rehearsal.postgres import Server
from tests.conftest import drop_database

ROOT = Path(__file__).parents[2]
CONFIG = estate_config.load(ROOT / "config.example.toml")
FOLDERS = {"order": "order", "checkout": "checkout", "return": "returns"}
Connection = psycopg.Connection[Any]
MAPPINGS = [
    pytest.param(domain.name, direction, mapping, id=f"{domain.name}.{direction}.{mapping.target}")
    for domain in CONFIG.domains.values()
    for direction, mappings in (("forward", domain.forward), ("reverse", domain.reverse))
    for mapping in mappings
]
CUSTOMER = "0b8d8f0e-9c11-4f6a-8d4e-d2a3c4b5e6f7"


@dataclass(frozen=True)
class Split:
    """One connection to each database, each with its schema."""

    connections: dict[str, Connection]

    def sides(self, domain: str, direction: str) -> tuple[Connection, Connection]:
        """The connections to source and target."""
        settings = CONFIG.domain(domain)
        old, new = self.connections[settings.old], self.connections[settings.new]
        return (old, new) if direction == "forward" else (new, old)

    def empty(self, *databases: str) -> None:
        """Remove all rows of the tables that move."""
        for name in databases:
            moving = {
                mapping.target
                for domain in CONFIG.domains.values()
                for database, mappings in (
                    (domain.new, domain.forward),
                    (domain.old, domain.reverse),
                )
                for mapping in mappings
                if database == name
            }
            tables = sql.SQL(", ").join(map(sql.Identifier, sorted(moving)))
            self.connections[name].execute(sql.SQL("TRUNCATE {} CASCADE").format(tables))


def columns(source: Connection, mapping: MappingConfig) -> list[str]:
    cursor = source.execute(f"SELECT * FROM ({mapping.sql}) q LIMIT 0".encode())
    return [c.name for c in cursor.description or () if c.name != "splitctl_route"]


def rows(connection: Connection, names: list[str], place: sql.Composable) -> list[str]:
    """The rows of these columns as text, in one order everywhere."""
    statement = sql.SQL("SELECT ROW({})::text FROM {} AS q").format(
        sql.SQL(", ").join(sql.Identifier("q", name) for name in names), place
    )
    return sorted(text for (text,) in connection.execute(statement).fetchall())


def query(mapping: MappingConfig) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(mapping.sql))


def mappings_of(domain: str, direction: str) -> list[MappingConfig]:
    settings = CONFIG.domain(domain)
    return settings.forward if direction == "forward" else settings.reverse


def carry(split: Split, domain: str, direction: str) -> None:
    """Copy every mapping's rows into its target; parents stand first in the configuration."""
    source, target = split.sides(domain, direction)
    for mapping in mappings_of(domain, direction):
        names = sql.SQL(", ").join(map(sql.Identifier, columns(source, mapping)))
        read = sql.SQL("COPY (SELECT {} FROM {} q) TO STDOUT").format(names, query(mapping))
        write = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(mapping.target), names)
        with source.cursor().copy(read) as out, target.cursor().copy(write) as into:
            for block in out:
                into.write(block)


def assert_equal(split: Split, domain: str, direction: str) -> None:
    """Each mapping's query gives just what stands in its target, and the same routes."""
    source, target = split.sides(domain, direction)
    for mapping in mappings_of(domain, direction):
        names = columns(source, mapping)
        table = sql.Identifier(mapping.target)
        assert rows(source, names, query(mapping)) == rows(target, names, table), mapping.target
        key = list(mapping.key)
        asked = rows(source, [*key, "splitctl_route"], query(mapping))
        routed = sql.SQL("(SELECT t.*, ({})::text AS splitctl_route FROM {} t)").format(
            sql.SQL(mapping.route), table
        )
        assert asked == rows(target, [*key, "splitctl_route"], routed), mapping.target


def there_and_back(split: Split, domain: str) -> None:
    """From the old side to the new, and every reverse query gives the old rows again."""
    carry(split, domain, "forward")
    assert_equal(split, domain, "forward")
    assert_equal(split, domain, "reverse")


def back_and_there(split: Split, domain: str) -> None:
    """The new side's state is carried to an empty old side, and the forward queries give it."""
    split.empty("order")
    carry(split, domain, "reverse")
    assert_equal(split, domain, "reverse")
    assert_equal(split, domain, "forward")


@pytest.fixture(scope="module")
def split(pg_servers: dict[str, Server]) -> Iterator[Split]:
    mark = secrets.token_hex(4)
    connections: dict[str, Connection] = {}
    try:
        for name, folder in FOLDERS.items():
            server, database = pg_servers[name], f"t_{mark}_{name}"
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}".encode())
            connections[name] = migrated(server.dsn(database), folder)
        yield Split(connections)
    finally:
        for name in FOLDERS:
            if name in connections:
                connections[name].close()
            drop_database(pg_servers[name], f"t_{mark}_{name}")


def migrated(dsn: str, folder: str) -> Connection:
    alembic = AlembicConfig()
    alembic.set_main_option("script_location", str(ROOT / "services" / folder / "migrations"))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "head")
    engine.dispose()
    return psycopg.connect(dsn, autocommit=True, options="-c timezone=Asia/Kolkata")


# What life puts into JSON. Fragments are JSON text, so that scale and spelling are ours to choose.
TIMES = (
    "2024-02-29T10:00:00.123456Z",
    "2023-02-29T10:00:00.123456Z",
    "2000-02-29T23:59:59.000000Z",
    "1900-02-29T00:00:00Z",
    "2024-04-31T10:00:00.5Z",
    "2024-12-31T23:59:59.999999+05:30",
    "2024-06-01T10:00:00.123456+00:00",
    "2024-06-01T24:00:00.000000Z",
    "2024-06-01 10:00:00",
    "0000-01-01T00:00:00.000000Z",
    "31.12.2024 10:00",
)
AMOUNTS = (
    *("5", "5.00", "5.0", "-0.00", "-7.50", "5.005", "1e3", "99999999999.994", "1e300"),
    *('"5.00"', '"5"', '"05.00"', '"-0.00"', '"1e3"', '"NaN"', '" 5.00"', '"99999999999.999"'),
)
ODD = ("null", "true", "0", '""', '"x"', "[]", "{}", "[null]", '[{"a": null}]', '{"b": [1, [2]]}')
UNKNOWN_KEYS = ("", "legacy", "position", "Code", "ключ", "a b")
CUSTOMERS = (
    None,
    CUSTOMER,
    CUSTOMER.upper(),
    CUSTOMER[:-1] + "F",
    "guest-17",
    "Guest-17",
    "",
    CUSTOMER.replace("-", ""),
    "{" + CUSTOMER[:-2],
    CUSTOMER[:-1] + "\n",
    "ÄÖÜ",
)
PROMOTION_KEYS = ("code", "type", "discount_amount")
ADDRESS_KEYS = ("name", "line1", "line2", "city", "state", "postal_code", "country", "phone")
CHANGE_KEYS = ("status", "at", "by", "note")
REFUND_KEYS = ("payment_id", "method", "amount", "currency", "status", "refund_id", "processed_at")


class Life:
    """Untidy values, the same for the same seed. JSON is given as text, SQL null as None."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def customer(self) -> str | None:
        return self.random.choice(CUSTOMERS)

    def guest(self) -> str | None:
        return self.random.choice([None, "tok-1", "TOK-2"])

    def text(self) -> str | None:
        return self.random.choice([None, "", "x", "Zoë \\ \"\t\n'", "名" * 9, "5.00", "null"])

    def value(self, key: str) -> str:
        if self.random.random() < 0.3:
            return self.random.choice(ODD)
        if "amount" in key:
            return self.random.choice(AMOUNTS)
        if key in ("at", "processed_at"):
            return json.dumps(self.random.choice(TIMES))
        return json.dumps(self.text())

    def object(self, keys: tuple[str, ...]) -> str:
        known = [(key, self.value(key)) for key in keys if self.random.random() < 0.8]
        unknown = [(key, self.value(key)) for key in UNKNOWN_KEYS if self.random.random() < 0.1]
        return joined([*known, *unknown])

    def list(self, keys: tuple[str, ...]) -> str:
        entries = [
            self.object(keys) if self.random.random() < 0.8 else self.random.choice(ODD)
            for _ in range(self.random.choice([0, 1, 1, 2, 3]))
        ]
        return "[" + ", ".join(entries + entries[: self.random.choice([0, 0, 1])]) + "]"

    def address(self) -> str | None:
        return self.random.choice([None, self.random.choice(ODD), *[self.object(ADDRESS_KEYS)] * 4])

    def metadata(self, **made: str) -> str | None:
        """SQL null, JSON of any kind, or an object where these keys may stand, rightly or not."""
        if self.random.random() < 0.2:
            return self.random.choice([None, json.dumps(list(made)), *ODD])
        known = [
            (key, right if self.random.random() < 0.8 else self.random.choice(ODD))
            for key, right in made.items()
            if self.random.random() < 0.85
        ]
        unknown = [(key, self.value(key)) for key in UNKNOWN_KEYS if self.random.random() < 0.1]
        return joined([*known, *unknown])

    def cart_metadata(self) -> str | None:
        return self.metadata(promotions=self.list(PROMOTION_KEYS))

    def return_metadata(self) -> str | None:
        return self.metadata(
            status_history=self.list(CHANGE_KEYS),
            refund=self.object(REFUND_KEYS),
            carrier=self.value("carrier"),
        )


def joined(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs) + "}"


ROWS = 60
SEEDS = st.integers(0, 2**32 - 1)
# A seed that fails is told as it is: a smaller number would be no simpler.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
THOROUGH = settings(max_examples=12, deadline=None, phases=UNSHRUNK)

CART = """
INSERT INTO cart_sessions (session_id, customer_id, guest_token, status, metadata, version)
VALUES (gen_random_uuid()::text, %s, %s, 'active', %s::jsonb, 3) RETURNING id
"""
CART_ITEM = """
INSERT INTO cart_items (cart_session_id, product_id, product_sku, quantity, unit_price, total_price)
VALUES (%s, gen_random_uuid(), 'SKU-1', 2, 1.50, 3.00)
"""
CHECKOUT = """
INSERT INTO checkout_sessions (session_token, customer_id, cart_id, shipping_address,
                               billing_address, shipping_cost, metadata)
VALUES (gen_random_uuid()::text, %s, %s, %s::jsonb, %s::jsonb, 4.90, %s::jsonb)
"""
RETURN = """
INSERT INTO return_requests (return_number, order_id, customer_id, return_shipping_label_url,
                             return_tracking_number, metadata, total_refund_amount)
VALUES (left(gen_random_uuid()::text, 30), gen_random_uuid(), %s, %s, %s, %s::jsonb, 3.10)
RETURNING id
"""
RETURN_ITEM = """
INSERT INTO return_items (return_request_id, order_item_id, product_sku, quantity_returned,
                          unit_price, metadata)
VALUES (%s, 1, 'SKU-1', 1, 1.50, %s::jsonb)
"""


def live_with_carts(order: Connection, life: Life, count: int) -> None:
    for _ in range(count):
        cart = order.execute(CART, [life.customer(), life.guest(), life.cart_metadata()]).fetchone()
        assert cart is not None
        order.execute(CART_ITEM, cart)
        values = [life.customer(), cart[0], life.address(), life.address(), life.cart_metadata()]
        order.execute(CHECKOUT, values)
    order.execute(CHECKOUT, [None, None, None, None, None])


def live_with_returns(order: Connection, life: Life, count: int) -> None:
    for _ in range(count):
        values = [life.customer(), life.text(), life.text(), life.return_metadata()]
        found = order.execute(RETURN, values).fetchone()
        assert found is not None
        order.execute(RETURN_ITEM, [found[0], life.return_metadata()])


@THOROUGH
@given(SEEDS)
def test_untidy_carts_and_checkouts_survive_there_and_back(split: Split, seed: int) -> None:
    split.empty("order", "checkout")
    live_with_carts(split.connections["order"], Life(seed), ROWS)
    there_and_back(split, "checkout")


# Characters around and inside of what a uuid may hold, and some that only look like it.
NEARLY_UUIDS = st.one_of(
    st.text("0123456789abcdefABCDEFgG-{} \n\u0661\uff11", max_size=38),
    st.lists(st.text("0123456789abcdefABCDEF-", max_size=12), max_size=6).map("-".join),
    st.uuids().flatmap(
        lambda u: st.sampled_from([
            str(u), str(u).upper(), u.hex, f"{{{u}}}", f"{u}\n", f" {u}", str(u).title(),
            str(u)[:35] + "-", "-" + str(u)[1:], str(u).replace("-", "_"), str(u)[:-1] + "g",
        ])
    ),
).map(lambda text: text[:36])  # fmt: skip
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@settings(THOROUGH, max_examples=20)
@given(st.lists(NEARLY_UUIDS, min_size=1, max_size=200))
def test_a_customer_becomes_a_uuid_just_when_it_is_written_as_one(
    split: Split, written: list[str]
) -> None:
    order = split.connections["order"]
    for domain, table in (("checkout", "carts"), ("return", "return_requests")):
        mapping = next(m for m in mappings_of(domain, "forward") if m.target == table)
        asked = sql.SQL("SELECT legacy_customer_id, customer_id::text FROM {} AS q").format(
            query(mapping)
        )
        split.empty("order")
        for text in written:
            if domain == "checkout":
                order.execute(CART, [text, None, None])
            else:
                order.execute(RETURN, [text, None, None, None])
        found = order.execute(asked).fetchall()
        is_one = [text for text in written if UUID_FORM.fullmatch(text)]
        assert sorted(uuid for _, uuid in found if uuid) == sorted(map(str.lower, is_one))
        kept = [text for text in written if text not in is_one or text != text.lower()]
        assert sorted(text for text, _ in found if text is not None) == sorted(kept)


@THOROUGH
@given(SEEDS)
def test_untidy_returns_survive_there_and_back(split: Split, seed: int) -> None:
    split.empty("order", "return")
    live_with_returns(split.connections["order"], Life(seed), ROWS)
    there_and_back(split, "return")


# What the new services do, to carts and checkouts of their own and to those that came over.
NEW_CART = """
INSERT INTO carts (session_id, customer_id, guest_token, metadata) VALUES
    ('n1', '0b8d8f0e-9c11-4f6a-8d4e-d2a3c4b5e6f7', NULL, '{}'),
    ('n2', NULL, 'tok-9', '{"closed_for": "merge"}'),
    ('n3', NULL, NULL, NULL)
"""
ADD_PROMOTION = """
INSERT INTO cart_promotions (cart_id, position, code, type, discount_amount)
SELECT c.id, 1 + (SELECT count(*) FROM cart_promotions p WHERE p.cart_id = c.id),
       %s, 'fixed', %s FROM carts c
"""
NEW_CHECKOUT = """
INSERT INTO checkouts (session_token, customer_id, cart_id, metadata)
SELECT 'k' || session_id, customer_id, id, '{"order_number": "ORD-1"}' FROM carts
"""
PUT_ADDRESS = """
INSERT INTO checkout_addresses AS a (checkout_id, kind, name, city, legacy)
SELECT id, %s, 'Eve', 'Oslo', '{"doorbell": 3}' FROM checkouts
ON CONFLICT (checkout_id, kind) DO UPDATE
   SET name = excluded.name, line1 = NULL, line2 = NULL, city = excluded.city, state = NULL,
       postal_code = NULL, country = NULL, phone = NULL, legacy = excluded.legacy
"""
CART_WRITES = (
    (NEW_CART, ()),
    (ADD_PROMOTION, ("SAVE10", 5)),
    (ADD_PROMOTION, ("SAVE10", "0.50")),
    ("UPDATE cart_promotions SET discount_amount = 7.5 WHERE position = 1", ()),
    ("UPDATE cart_promotions SET code = 'NEW', type = 'other' WHERE position = 2", ()),
    ("DELETE FROM cart_promotions WHERE position IN (1, 3)", ()),
    (NEW_CHECKOUT, ()),
    (PUT_ADDRESS, ("shipping",)),
    ("UPDATE checkout_addresses SET city = 'Bern', phone = '1' WHERE kind = 'billing'", ()),
    (PUT_ADDRESS, ("billing",)),
    ("DELETE FROM cart_promotions", ()),
    ("DELETE FROM carts WHERE session_id = 'n1'", ()),
)


@settings(THOROUGH, max_examples=4)
@given(SEEDS)
def test_what_the_checkout_service_writes_survives_back_and_there(split: Split, seed: int) -> None:
    split.empty("order", "checkout")
    live_with_carts(split.connections["order"], Life(seed), 40)
    carry(split, "checkout", "forward")
    for statement, values in CART_WRITES:
        split.connections["checkout"].execute(statement.encode(), values)
        back_and_there(split, "checkout")


NEW_RETURN = """
INSERT INTO return_requests (return_number, order_id, customer_id, metadata) VALUES
    ('n1', gen_random_uuid(), '0b8d8f0e-9c11-4f6a-8d4e-d2a3c4b5e6f7', '{}'),
    ('n2', gen_random_uuid(), NULL, NULL)
"""
ADD_CHANGE = """
INSERT INTO return_status_history (return_id, position, status, changed_at, changed_by)
SELECT r.id, 1 + (SELECT count(*) FROM return_status_history h WHERE h.return_id = r.id),
       'approved', %s, 'desk-1' FROM return_requests r
"""
START_REFUND = """
INSERT INTO return_refunds AS f (return_id, payment_id, method, amount, currency, status)
SELECT id, 'pay-1', 'card', 12.3, 'EUR', 'pending' FROM return_requests
ON CONFLICT (return_id) DO UPDATE SET amount = excluded.amount, status = excluded.status
"""
END_REFUND = """
UPDATE return_refunds SET status = 'completed', refund_id = 'ref-1', processed_at = now()
"""
SEND_LABEL = """
INSERT INTO return_shipping AS s (return_id, label_url, tracking_number)
SELECT id, 'https://x', 'T1' FROM return_requests
ON CONFLICT (return_id) DO UPDATE SET label_url = excluded.label_url
"""
RETURN_WRITES = (
    (NEW_RETURN, ()),
    (ADD_CHANGE, ("2024-02-29T10:00:00Z",)),
    (ADD_CHANGE, ("2025-07-01T23:59:59.000001+02:00",)),
    (START_REFUND, ()),
    (END_REFUND, ()),
    (SEND_LABEL, ()),
    ("UPDATE return_shipping SET carrier = 'DHL'", ()),
    ("UPDATE return_shipping SET carrier = NULL", ()),
    ("DELETE FROM return_requests WHERE return_number = 'n1'", ()),
)


@settings(THOROUGH, max_examples=4)
@given(SEEDS)
def test_what_the_return_service_writes_survives_back_and_there(split: Split, seed: int) -> None:
    split.empty("order", "return")
    live_with_returns(split.connections["order"], Life(seed), 40)
    carry(split, "return", "forward")
    for statement, values in RETURN_WRITES:
        split.connections["return"].execute(statement.encode(), values)
        back_and_there(split, "return")


def test_the_old_side_reads_what_the_new_side_wrote(split: Split) -> None:
    """The shapes that an old service parses: lists in order, amounts as numbers, times as text."""
    split.empty("order", "checkout", "return")
    checkout, returns = split.connections["checkout"], split.connections["return"]
    checkout.execute(NEW_CART.encode())
    checkout.execute(ADD_PROMOTION.encode(), ("B", 5))
    checkout.execute(ADD_PROMOTION.encode(), ("A", "1.25"))
    carry(split, "checkout", "reverse")
    row = split.connections["order"].execute(
        "SELECT customer_id, metadata::text FROM cart_sessions WHERE session_id = 'n1'"
    )
    assert row.fetchone() == (
        CUSTOMER,
        '{"promotions": [{"code": "B", "type": "fixed", "discount_amount": 5.00},'
        ' {"code": "A", "type": "fixed", "discount_amount": 1.25}]}',
    )
    returns.execute(NEW_RETURN.encode())
    returns.execute(ADD_CHANGE.encode(), ("2024-02-29T10:00:00+02:00",))
    returns.execute(START_REFUND.encode())
    carry(split, "return", "reverse")
    found = split.connections["order"].execute(
        "SELECT metadata FROM return_requests WHERE return_number = 'n2'"
    )
    assert found.fetchone() == (
        {
            "refund": {
                "amount": "12.30",
                "method": "card",
                "status": "pending",
                "currency": "EUR",
                "payment_id": "pay-1",
            },
            "status_history": [
                {"at": "2024-02-29T08:00:00.000000Z", "by": "desk-1", "status": "approved"}
            ],
        },
    )


@pytest.mark.parametrize("domain", CONFIG.domains)
def test_every_mapping_fits_its_tables(split: Split, domain: str) -> None:
    for stream in streams(CONFIG, domain):
        source, target = split.sides(domain, stream.direction)
        for mapping in stream.mappings:
            found = shape(source, target, mapping)
            assert found.canonical, mapping.name
            table = catalog.table(target, mapping.target)
            computed = {column.name for column in table.columns if column.generated}
            assert set(found.columns) == {c.name for c in table.columns} - computed, mapping.name
            for name, leads in mapping.config.sources.items():
                assert set(leads.values()) <= set(catalog.table(source, name).identity_columns)


SEED = (
    """INSERT INTO cart_sessions (session_id, customer_id, metadata)
       SELECT 's' || n, gen_random_uuid()::text, '{"promotions": [{"code": "A"}, {"code": "B"}]}'
         FROM generate_series(1, 3000) n""",
    """INSERT INTO cart_items (cart_session_id, product_sku, quantity, unit_price, total_price)
       SELECT id, 'S', 1, 1, 1 FROM cart_sessions""",
    """INSERT INTO checkout_sessions (session_token, cart_id, shipping_address, billing_address)
       SELECT session_id, id, '{"city": "Oslo"}', '{}' FROM cart_sessions""",
    """INSERT INTO return_requests (return_number, order_id, return_tracking_number, metadata)
       SELECT 'R' || n, gen_random_uuid(), 'T' || n,
              '{"status_history": [{"status": "requested"}], "refund": {"amount": "1.00"}}'
         FROM generate_series(1, 3000) n""",
    """INSERT INTO return_items (return_request_id, product_sku, quantity_returned, unit_price)
       SELECT id, 'S', 1, 1 FROM return_requests""",
)


@pytest.fixture(scope="module")
def filled(split: Split) -> Split:
    """Some thousand rows on both sides."""
    split.empty("order", "checkout", "return")
    for statement in SEED:
        split.connections["order"].execute(statement.encode())
    for domain in CONFIG.domains:
        carry(split, domain, "forward")
    for connection in split.connections.values():
        connection.execute("ANALYZE")
    return split


def scanned(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for below in plan.get("Plans", []):
        yield from scanned(below)


@pytest.mark.parametrize(("domain", "direction", "mapping"), MAPPINGS)
def test_reading_some_keys_scans_no_table(
    filled: Split, domain: str, direction: str, mapping: MappingConfig
) -> None:
    source, _ = filled.sides(domain, direction)
    key = sql.Identifier("q", mapping.key[0])
    first = sql.SQL("SELECT DISTINCT {0} FROM {1} q ORDER BY {0} LIMIT 5")
    known = [value for (value,) in source.execute(first.format(key, query(mapping))).fetchall()]
    assert len(known) == 5
    for condition, values in (
        (sql.SQL("{} = ANY(%s)").format(key), [known]),
        (sql.SQL("{0} >= %s AND {0} <= %s").format(key), [known[0], known[-1]]),
    ):
        select = sql.SQL("EXPLAIN (FORMAT JSON) SELECT * FROM ({}) q WHERE {}").format(
            sql.SQL(mapping.sql.replace("%", "%%")), condition
        )
        row = source.execute(select, values).fetchone()
        assert row is not None
        assert list(scanned(row[0][0]["Plan"])) == []
