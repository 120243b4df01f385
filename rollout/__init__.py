"""Moves traffic: phases, gates and their evidence, the fenced step, rollback, status."""
