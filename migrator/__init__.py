"""The path through the data: from the log to keys, from keys to rows, from rows to the target."""
