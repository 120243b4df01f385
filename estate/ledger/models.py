"""The ledger's tables, in a schema of their own. The migrations beside this file make them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, DateTime, Float, Identity, Integer, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "splitctl"
Json = dict[str, Any]


class Base(DeclarativeBase):
    """All tables of the ledger."""

    metadata = MetaData(schema=SCHEMA)
    type_annotation_map = {  # noqa: RUF012 - declared so by SQLAlchemy
        Json: JSONB,
        str: Text,
        datetime: DateTime(timezone=True),
        float: Float(53),
    }


class RolloutRow(Base):
    """Where a domain stands. The only row that is changed in place."""

    __tablename__ = "rollout"

    domain: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str]
    percentage: Mapped[int] = mapped_column(Integer)
    phase: Mapped[int] = mapped_column(Integer)
    phase_started_at: Mapped[datetime | None]
    moved_at: Mapped[datetime | None]
    soak_evidence_s: Mapped[float]
    soak_required_s: Mapped[float | None]
    counted_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(BigInteger)
    evidence: Mapped[Json]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ActRow(Base):
    """An intent, written before the act, and its outcome. `state`: intended, done, abandoned."""

    __tablename__ = "act"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    operator: Mapped[str]
    host: Mapped[str]
    command: Mapped[str]
    domain: Mapped[str | None]
    kind: Mapped[str]
    intent: Mapped[Json]
    outcome: Mapped[Json | None]
    finished_at: Mapped[datetime | None]
    state: Mapped[str]
    journal_id: Mapped[str | None] = mapped_column(unique=True)


class SampleRow(Base):
    """What was measured at one moment."""

    __tablename__ = "sample"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    domain: Mapped[str]
    source: Mapped[str]
    data: Mapped[Json]


class VerdictRow(Base):
    """The answer of a gate or of a verification. `started_at`: when its evidence began."""

    __tablename__ = "verdict"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime]
    domain: Mapped[str]
    kind: Mapped[str]
    name: Mapped[str]
    verdict: Mapped[str]
    data: Mapped[Json]


class OperatorLockRow(Base):
    """Who holds the operator lock. True only while the session behind it holds the real lock."""

    __tablename__ = "operator_lock"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    operator: Mapped[str]
    host: Mapped[str]
    command: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class RefugeRow(Base):
    """What is kept of a stream while its target is away.

    Every change of its source behind `from_lsn` up to `to_lsn` is among the keys.
    """

    __tablename__ = "refuge"

    stream: Mapped[str] = mapped_column(primary_key=True)
    system_id: Mapped[str]
    timeline: Mapped[int] = mapped_column(Integer)
    from_lsn: Mapped[int] = mapped_column(BigInteger)
    to_lsn: Mapped[int] = mapped_column(BigInteger)
    began_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class RefugeKeyRow(Base):
    """A key that changed meanwhile, or for which the opposite stream `asked`: nobody changed it.

    `told_at`: the position of the last commit that told of it; unknown in rows of older versions.
    """

    __tablename__ = "refuge_key"

    stream: Mapped[str] = mapped_column(primary_key=True)
    mapping: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[list[str]] = mapped_column(JSONB, primary_key=True)
    asked: Mapped[bool] = mapped_column(Boolean)
    told_at: Mapped[int | None] = mapped_column(BigInteger)
