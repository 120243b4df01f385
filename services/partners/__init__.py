"""The partners: catalog, pricing, promotion, warehouse, payment, shipping and customer.

One small program answers for all of them from memory, with faults on demand.

goods.py    what is sold and what it costs: worked out, never stored
once.py     idempotency keys: the same key gives the same answer
faults.py   answers that fail or are late, when asked for
app.py      the HTTP interface; __main__.py starts it
"""
