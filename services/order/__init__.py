"""The old order service: orders, and until the split carts, checkouts and returns, on order_db."""
