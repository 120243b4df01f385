"""Kinds of values that the configuration is made of: durations, sizes, names, addresses."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

BUCKETS = 10_000
# A heartbeat of sync goes round about every second. One that was sent so long ago means that nobody
# carries anything; until then it tells how far behind a stream is.
HEARTBEAT_EVERY_MS = 1_000
ALIVE_WITHIN_MS = 10_000
IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
HTTP_URL = re.compile(r"https?://[^\s/]+\S*")
HOST_PORT = re.compile(r"[^\s:]+:\d{1,5}")
LAST_PORT = 65_535
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)")
SIZES = {"kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
LONGEST_NAME = 63
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class StrayRule:
    """What becomes of a key that was changed on the side that does not own it.

    `column` is the one that `newest` compares, else None.
    """

    name: Literal["owner", "carry", "newest", "stop"]
    column: str | None = None


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a number with ms, s, m, h or d, like '24h'")
    try:
        return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise ValueError("this duration is longer than can be counted") from error


def _size(value: Any) -> int:
    match = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size is a number with kB, MB, GB or TB, like '200GB'")
    return int(float(match[1]) * SIZES[match[2]])


def _identifier(value: str) -> str:
    if not IDENTIFIER.fullmatch(value):
        raise ValueError("a plain SQL name is expected: lower-case letters, digits, underscores")
    return value


def _name(value: str) -> str:
    if not value or "\0" in value or len(value.encode()) > LONGEST_NAME:
        raise ValueError(
            f"the name of a table or a column is expected, of up to {LONGEST_NAME} bytes"
        )
    return value


def _http_url(value: str) -> str:
    if not HTTP_URL.fullmatch(value):
        raise ValueError("an address is expected, like 'http://gateway-1:8081'")
    return value


def _host_port(value: str) -> str:
    if not HOST_PORT.fullmatch(value) or int(value.rpartition(":")[2]) > LAST_PORT:
        raise ValueError("a host and a port are expected, like '127.0.0.1:9187'")
    return value


def _stray(value: Any) -> StrayRule:
    match value:
        case StrayRule():
            return value
        case "owner" | "carry" | "stop":
            return StrayRule(value)
        case {"newest": str(column), **rest} if not rest and IDENTIFIER.fullmatch(column):
            return StrayRule("newest", column)
    raise ValueError('a rule is expected: "owner", "carry", "stop" or { newest = "a column" }')


def parse_duration(text: str) -> timedelta:
    """A duration such as `20s`, `15m`, `24h` or `7d`. Raises ValueError with the reason."""
    return _duration(text)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
# In bytes; a unit is 1024 of the one before, as PostgreSQL counts.
Size = Annotated[int, BeforeValidator(_size)]
Identifier = Annotated[str, AfterValidator(_identifier)]
# Of a table or a column, exactly as the catalogue has it: upper case and all.
Name = Annotated[str, AfterValidator(_name)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
HostPort = Annotated[str, AfterValidator(_host_port)]
Stray = Annotated[StrayRule, BeforeValidator(_stray)]
