"""The jobs that write beside the gateway: no customer waits for them, and no fence holds them.

So each asks inside its own transaction who owns the bucket, which locks the answer until it
commits. A step that moves the bucket waits for that, and a job that comes later finds itself
no longer the owner.

tables.py   the two shapes in which carts are kept
ownership.py who owns a bucket, asked under lock
work.py     cart cleanup, outbox relay, compensation retry
report.py   health and metrics
loop.py     rounds, reconnecting, stopping; __main__.py starts it
"""
