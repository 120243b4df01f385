"""The checks can fail: faults made on purpose against a running estate of real processes."""
