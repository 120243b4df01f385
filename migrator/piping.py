"""COPY from one server straight into COPY on another: bytes that nobody looks at.

Below the library's own COPY, because that costs several calls for each row. Both sessions must
speak the same encoding.
"""

import select
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

Connection = psycopg.Connection[Any]
WRITE_BYTES = 128 * 1024
WAIT_S = 1.0


class Piped(NamedTuple):
    """How many rows were written, and how many bytes they had on the way."""

    rows: int
    size: int


def pipe(source: Connection, target: Connection, out: bytes, into: bytes) -> Piped:
    """Run `COPY ... TO STDOUT` on the source into `COPY ... FROM STDIN` on the target.

    Both connections have their transaction open. Raises what either server says of a row or of
    itself; both transactions are to be rolled back then.
    """
    reader, writer = source.pgconn, target.pgconn
    _begin(writer, into, pq.ExecStatus.COPY_IN)
    try:
        _begin(reader, out, pq.ExecStatus.COPY_OUT)
        size = _carry(reader, writer)
    except psycopg.Error:
        _give_up(writer)
        raise
    while writer.put_copy_end() == 0:
        _flush(writer)
    _flush(writer)
    return Piped(_finish(writer).command_tuples or 0, size)


def _carry(reader: PGconn, writer: PGconn) -> int:
    rows: list[Any] = []
    size = whole = 0
    take = reader.get_copy_data
    while True:
        length, data = take(1)
        if length > 0:
            rows.append(data)
            size += length
            if size >= WRITE_BYTES:
                _write(writer, b"".join(rows))
                rows.clear()
                whole, size = whole + size, 0
        elif length == 0:
            _await(reader)
        else:
            break
    if rows:
        _write(writer, b"".join(rows))
    _finish(reader)
    return whole + size


def _write(writer: PGconn, data: bytes) -> None:
    while writer.put_copy_data(data) == 0:
        _flush(writer)
    _flush(writer)


def _flush(connection: PGconn) -> None:
    """Until the server has taken what was written; it may want to be listened to meanwhile."""
    while connection.flush():
        readable, _, _ = select.select([connection.socket], [connection.socket], [], WAIT_S)
        if readable:
            connection.consume_input()


def _begin(connection: PGconn, statement: bytes, wanted: pq.ExecStatus) -> None:
    connection.send_query(statement)
    _flush(connection)
    result = _result(connection)
    if result is None or result.status != wanted:
        _drain(connection)
        raise _error(result)


def _finish(connection: PGconn) -> PGresult:
    result = _result(connection)
    _drain(connection)
    if result is None or result.status != pq.ExecStatus.COMMAND_OK:
        raise _error(result)
    return result


def _give_up(connection: PGconn) -> None:
    """End a COPY that must not be: the transaction is rolled back."""
    if connection.status == pq.ConnStatus.OK:
        try:
            connection.put_copy_end(b"the rows could not be read")
            _flush(connection)
            _drain(connection)
        except psycopg.Error:
            pass  # the error that led here is the one to tell


def _drain(connection: PGconn) -> None:
    """The library answers only when every result was fetched."""
    while _result(connection) is not None:
        pass


def _result(connection: PGconn) -> PGresult | None:
    while connection.is_busy():
        _await(connection)
    return connection.get_result()


def _await(connection: PGconn) -> None:
    readable, _, _ = select.select([connection.socket], [], [], WAIT_S)
    if readable:
        connection.consume_input()


def _error(result: PGresult | None) -> psycopg.Error:
    if result is None:
        return psycopg.OperationalError("the server gave no result")
    return psycopg.errors.error_from_result(result, encoding="utf-8")
