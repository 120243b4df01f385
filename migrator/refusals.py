"""What an error of the target says: try again, blame a row, or neither."""

import psycopg

TRANSIENT = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
)
# What a row can be to blame for: bad values (22), broken constraints (23), a trigger's refusal
# (P0), a limit that a value goes beyond (54), and two rows of one set that are the same (21).
BLAME = ("21", "22", "23", "P0", "54")


def of_a_row(error: psycopg.Error) -> bool:
    """Whether a row's values may be to blame, rather than the connection or the statement."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate.startswith(BLAME)
