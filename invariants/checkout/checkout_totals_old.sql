-- A checkout's total is what it is made of.
SELECT id AS checkout, subtotal, discount_amount, shipping_amount, tax_amount, total_amount
  FROM checkout_sessions
 WHERE total_amount <> subtotal - discount_amount + shipping_amount + tax_amount
