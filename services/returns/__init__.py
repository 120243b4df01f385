"""The new return service: returns on return_db; orders by asking the order service."""
