"""The gateway: sends each customer to the old or the new side, and holds those who move.

buckets.py   who is in which share of a domain
flags.py     what is served: switch and percentage per domain, with their epoch
flag_files.py  the same from a mounted ConfigMap, while it runs
fence.py     requests under way, the fence as a lease, the hold of a rollback (no network)
proxy.py     one request to its upstream and back
sides.py     both sides of a domain: when one says 421, the other is asked
merge.py     a guest's cart into a customer's, across sides
admin.py     the token-protected endpoint for flags, fences and rollback
metrics.py   what /metrics tells
app.py       the ASGI application made of these; __main__.py starts it
"""
