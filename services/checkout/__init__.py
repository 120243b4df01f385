"""The new checkout service: carts and checkouts on checkout_db; orders by asking the order one."""
