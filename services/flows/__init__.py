"""What customers do, the same on both sides of the split.

carts.py       8 methods of the cart          model.py        what carts and checkouts are
checkouts.py   7 methods of the checkout      return_model.py what returns are
returns.py     8 methods of the return        orders.py       what an order is, and who keeps it

Nothing here knows a table: each side brings a store that does. So one request gives one answer,
whichever side it meets.
"""
