"""The data path under faults: what is acknowledged is there in the end, on both sides, once."""
