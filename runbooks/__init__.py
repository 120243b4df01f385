"""What to type, and when."""
