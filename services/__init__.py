"""The reference estate: a small shop's own programs, on the old databases and on the new.

order/      `python -m services.order`     old: carts, checkouts, returns, orders (order_db)
checkout/   `python -m services.checkout`  new: carts, checkouts (checkout_db)
returns/    `python -m services.returns`   new: returns (return_db)
gateway/    `python -m services.gateway`   sends each customer to one side
partners/   `python -m services.partners`  catalog, payment, warehouse and so on
jobs/       `python -m services.jobs`      what writes beside the gateway

flows/      what customers do, the same on both sides; each side brings its store of tables
rules.py    prices, statuses, who may do what     web.py      HTTP, pool, faults, health, metrics
clients.py  partners over HTTP                    outbox.py   events, written with the data
body.py     reading JSON that was sent            problems.py refusals, as answers
"""
