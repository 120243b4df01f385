"""A second domain, with nothing in common with the shipped example: a library's loans."""
