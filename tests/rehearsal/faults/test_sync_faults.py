"""Sync that drops a key, keeps an old row or skips a delete: the row is named, the run fails."""

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from rehearsal import certificate
from rehearsal.certificate import Evidence
from rehearsal.children import wait_until
from rehearsal.stock import goods
from tests.rehearsal.faults.ground import Split, rows_named

pytestmark = pytest.mark.rehearsal

JOBS = ("jobs-order", "jobs-checkout", "jobs-return")
# The same two tables, compared in both directions.
ITEMS = ("checkout.forward.cart_items", "checkout.reverse.cart_items")
CUSTOMER = {"X-Customer-Id": "6d0fca2e-9a8b-4c1d-8e2f-0123456789ab"}


@pytest.fixture
def quiet(split: Split) -> Iterator[Split]:
    """Nobody writes but the test, so that it knows which key a fault meets."""
    split.customers_leave()
    split.estate.programs.stop(*JOBS)
    try:
        yield split
    finally:
        split.sync_anew()
        split.customers_come()


def call(split: Split, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    answer = httpx.request(method, split.estate.gateways[0] + path, json=body, headers=CUSTOMER)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def filled_cart(split: Split) -> tuple[str, str]:
    """A cart with one item, on both sides."""
    cart = call(split, "POST", "/carts")["id"]
    good = next(iter(goods()))
    body = {"product_id": str(good.product_id), "product_sku": good.sku, "quantity": 1}
    item = str(call(split, "POST", f"/carts/{cart}/items", body)["items"][0]["id"])
    assert wait_until(lambda: on_new(split, "cart_items", item) is not None, 10)
    return cart, item


def on_new(split: Split, table: str, key: str) -> Any:
    query = f"SELECT to_jsonb(t) FROM {table} t WHERE id::text = %s"
    with psycopg.connect(split.estate.database("checkout")) as connection:
        row = connection.execute(query.encode(), [key]).fetchone()
    return row[0] if row else None


def on_old(split: Split, statement: str, *arguments: Any) -> None:
    with psycopg.connect(split.estate.database("order")) as connection:
        connection.execute(statement.encode(), arguments)


def judged(split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """The verdict, and the certificate of a run that ends with it."""
    verdict = split.verify(*ITEMS)
    evidence = Evidence(seed=1, verdicts=[verdict], witness=split.witness())
    return verdict, certificate.build(evidence)


def test_a_dropped_key_fails_the_run_and_is_named(quiet: Split) -> None:
    _, item = filled_cart(quiet)
    quiet.sync_anew("drop-key:1")
    on_old(quiet, "UPDATE cart_items SET quantity = 7 WHERE id = %s", item)
    verdict, made = judged(quiet)
    assert verdict["verdict"] == "different", verdict
    assert rows_named(verdict) == {(mapping, item) for mapping in ITEMS}
    assert made["result"] == "fail"
    assert made["diff"]["mismatched"] == len(ITEMS)
    assert "a verification ended different" in made["reasons"]
    assert [found["key"] for found in made["diff_samples"]] == [{"id": item}] * len(ITEMS)
    heal(quiet, item)


def test_a_row_applied_out_of_order_fails_the_run_and_is_named(quiet: Split) -> None:
    _, item = filled_cart(quiet)
    quiet.sync_anew("reorder:1")
    change = "UPDATE cart_items SET quantity = %s WHERE id = %s"
    on_old(quiet, change, 5, item)
    assert wait_until(lambda: on_new(quiet, "cart_items", item)["quantity"] == 5, 10)
    on_old(quiet, change, 9, item)
    verdict, made = judged(quiet)
    assert verdict["verdict"] == "different", verdict
    assert rows_named(verdict) == {(mapping, item) for mapping in ITEMS}
    for found in made["diff_samples"]:
        assert (found["column"], int(found["old"]), int(found["new"])) == ("quantity", 9, 5)
    assert made["result"] == "fail"
    heal(quiet, item)


def test_a_skipped_delete_fails_the_run_and_is_named(quiet: Split) -> None:
    cart, item = filled_cart(quiet)
    quiet.sync_anew("skip-delete:1")
    call(quiet, "DELETE", f"/carts/{cart}/items/{item}")
    verdict, made = judged(quiet)
    assert verdict["verdict"] == "different", verdict
    assert rows_named(verdict) == {(mapping, item) for mapping in ITEMS}
    assert made["result"] == "fail"
    assert made["diff"]["extra"] + made["diff"]["missing"] == len(ITEMS)
    # A row of the same key that comes and goes takes the leftover with it.
    quiet.sync_anew()
    good = next(iter(goods()))
    on_old(
        quiet,
        "INSERT INTO cart_items (id, cart_session_id, product_id, product_sku, quantity,"
        " unit_price, total_price) OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, 1, 1, 1)",
        item, cart, good.product_id, good.sku,
    )  # fmt: skip
    on_old(quiet, "DELETE FROM cart_items WHERE id = %s", item)
    assert quiet.verify(*ITEMS)["verdict"] == "equal"


def heal(split: Split, item: str) -> None:
    """A sound worker reads the row again when it changes again."""
    split.sync_anew()
    on_old(split, "UPDATE cart_items SET quantity = 2 WHERE id = %s", item)
    assert split.verify(*ITEMS)["verdict"] == "equal"
