-- A line of a cart costs its quantity times its price. On either side.
SELECT id AS item, quantity, unit_price, total_price
  FROM cart_items
 WHERE total_price <> quantity * unit_price
