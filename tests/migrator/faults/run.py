"""One run: rows from before, backfill, writers on both sides, steps, faults; then the reckoning."""

import random
import re
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from estate.config import Config, load
from estate.errors import SplitctlError
from migrator import barrier, ownership, states, sync
from migrator.mapping import Side, other
from rehearsal.children import wait_until
from tests.migrator.faults.faults import BACKFILL, SECOND, WORKER, Harm
from tests.migrator.faults.ground import Ground
from tests.migrator.faults.traffic import HOLDERS, Door, Truth, Writer, look
from tests.migrator.parcels import Post

WRITERS = 3
SECONDS = 3.0
LEAST_NEW = 100
# More than one chunk of the backfill.
BEFORE = 12_000
JOIN_S = 100.0
HEAL_S = 90.0
STEP_S = 3.0
# A telling of what is wrong: so many letters.
MOST = 4_000
FILL = """
INSERT INTO depots (region, code, name, holder, tags)
SELECT holder, code, 'before ' || n, holder, '["b"]'
  FROM (SELECT n, 'holder ' || n % @holders@ AS holder, 5 + n / @holders@ AS code
          FROM generate_series(1, @rows@) AS n) AS before;
INSERT INTO parcels (region, code, weight, note)
SELECT region, code, 1, name FROM depots ORDER BY region, code;
"""


class Reckoned(AssertionError):
    """The reckoning does not come out even."""


@dataclass
class Run:
    """A run with its seed. `post` is configured as the tool is, through the proxies; `direct` as
    the test is."""

    ground: Ground
    post: Post
    direct: Config
    dsns: dict[Side, str]
    seed: int
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.truth, self.door, self.stop = Truth(), Door(), threading.Event()
        self.new_below, self.epoch = 0, 1
        chance = random.Random(self.seed)
        self.pauses = random.Random(f"{self.seed} pauses")
        self.harm = Harm(
            self.ground, self.config, chance, self._tell, self._carried_by, self._in_refuge
        )
        self.failures: list[Exception] = []

    def _tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self.began:.1f} s: {what}")

    @property
    def config(self) -> Path:
        """The tool's configuration."""
        return self.post.config.path

    def side_of(self, holder: str) -> Side:
        """Where the holder is served, as a gateway would know it."""
        return "new" if ownership.bucket(holder) < self.new_below else "old"

    def perform(self, kinds: list[str] | None = None) -> None:
        """Everything. `kinds` are the faults, in order; None: by chance. Raises Reckoned."""
        self.ground.set_clock(0)
        self.ground.died.clear()
        self._fill_old()
        sync.enable(self.direct, "post")
        self.ground.start_worker(WORKER, self.config)
        threads = [self._thread(writer.run) for writer in self._writers()]
        threads += [self._thread(self._copy), self._thread(self._steps)]
        try:
            # While rows are copied, and again while customers are served on both sides.
            self._do_harm(kinds)
            wait_until(self._new_side_is_used, HEAL_S)
            self._do_harm(kinds)
            wait_until(self._new_side_is_used, HEAL_S)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(JOIN_S)
            self._tell("everybody has stopped")
        assert not self.failures, (self.failures, self.told)
        assert not any(thread.is_alive() for thread in threads), self.told
        assert self._new_side_is_used(), (self.truth.acknowledged, self.told)
        self._reckon()

    def _new_side_is_used(self) -> bool:
        """A run in which nobody moved says nothing of the way back."""
        return self.truth.acknowledged["new"] >= LEAST_NEW or bool(self.failures)

    def _do_harm(self, kinds: list[str] | None) -> None:
        chance = self.pauses
        limit = time.monotonic() + SECONDS
        if kinds is None:
            while time.monotonic() < limit and not self.failures:
                self.harm.any()
                self.stop.wait(chance.uniform(0.0, 1.0))
        else:
            for kind in kinds:
                self.stop.wait(chance.uniform(0.0, 1.0))
                self.harm.do(kind)
            self.stop.wait(max(limit - time.monotonic(), 0.0))

    # What goes on meanwhile

    def _fill_old(self) -> None:
        """Rows from before the split, which only the backfill carries."""
        query = FILL.replace("@holders@", str(HOLDERS)).replace("@rows@", str(BEFORE))
        with psycopg.connect(self.dsns["old"]) as connection:
            connection.execute(query.encode())
            self.truth.acknowledge(look(connection, "old"), "before")

    def _writers(self) -> list[Writer]:
        return [
            Writer(n, self.seed, self.dsns, self.door, self.truth, self.side_of, self.stop)
            for n in range(WRITERS)
        ]

    def _copy(self) -> None:
        """`splitctl backfill run`, typed again when it fails, until everything is live."""
        limit = time.monotonic() + HEAL_S
        while True:
            words = ("backfill", "run", "post", "--config", str(self.config))
            child = self.ground.start_command(BACKFILL, *words)
            code = child.process.wait(HEAL_S)
            self.ground.children.stop(BACKFILL)
            if code == 0:
                self._tell("backfill done")
                return
            # Whatever was done to it: killed, or an answer that somebody can work with.
            if code >= 0:
                assert code not in (1, 2), child.last_words()
            assert time.monotonic() < limit, child.last_words()
            time.sleep(0.3)

    def _steps(self) -> None:
        """Moves the owner now and then, as a step does, when everything has crossed in time."""
        chance = random.Random(f"{self.seed} steps")
        while not self.stop.wait(chance.uniform(0.3, 1.5)):
            wanted = chance.choice([0, 1_000, 3_000, 5_000, 8_000, 10_000])
            if wanted == self.new_below:
                continue
            losing: Side = "old" if wanted > self.new_below else "new"
            low, high = sorted((wanted, self.new_below))
            with self.door.held(low, high):
                if self._has_crossed(losing):
                    self._move(wanted, losing)

    def _has_crossed(self, losing: Side) -> bool:
        stream = self.post.forward if losing == "old" else self.post.reverse
        try:
            with psycopg.connect(self.dsns[losing], autocommit=True) as source:
                if not barrier.quiesce(source, stream.tables, STEP_S):
                    return False
            with psycopg.connect(self.dsns[other(losing)], autocommit=True) as target:
                if set(states.read(target, stream.name).values()) != {"live"}:
                    return False
            return barrier.wait(stream, STEP_S).passed
        except (SplitctlError, psycopg.OperationalError):
            return False

    def _move(self, wanted: int, losing: Side) -> None:
        """There is no way back from here: whatever happens, both sides are told."""
        limit = time.monotonic() + HEAL_S
        for side in (losing, other(losing)):
            while True:
                try:
                    with psycopg.connect(self.dsns[side], autocommit=True) as connection:
                        ownership.switch(connection, "post", wanted, self.epoch + 1)
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < limit
                    time.sleep(0.1)
        self.new_below, self.epoch = wanted, self.epoch + 1
        self._tell(f"step to {wanted}")

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self.failures.append(error)
                raise

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _carried_by(self, name: str) -> bool:
        """Whether this worker says that it carries both streams."""
        streams = self._health(name)
        return bool(streams) and all(item["state"] == "running" for item in streams.values())

    def _in_refuge(self, side: Side) -> bool:
        """Whether the worker says that it keeps what would be written on this side."""
        stream = self.post.forward if side == "new" else self.post.reverse
        state = self._health(WORKER).get(stream.name, {}).get("state")
        return bool(state == "refuge")

    def _health(self, name: str) -> dict[str, Any]:
        """The streams as this worker sees them; nothing when it does not answer."""
        path = self.config if name == WORKER else self.config.with_name("second.toml")
        try:
            answer = httpx.get(f"http://{load(path).sync.listen}/status", timeout=2).json()
        except (httpx.HTTPError, ValueError):
            return {}
        streams: dict[str, Any] = answer["streams"]
        return streams

    # The reckoning

    def _reckon(self) -> None:
        """Healed, everything crosses; then both sides say the same, and it is the truth."""
        # What is wrong says more than where that was found.
        __tracebackhide__ = True
        for side in self.dsns:
            self.ground.proxies[side].heal()
            self.ground.heal_server(side)
        # A key that one stream asks the other for comes with the other's next round.
        for _ in range(2):
            if not wait_until(self._crossed, HEAL_S):
                raise Reckoned(f"not everything crossed after {self.told}")
        self._tell("everything has crossed")
        found: dict[str, object] = {}
        post = self._fresh()
        try:
            for stream in (post.forward, post.reverse):
                found[f"{stream.name} differs"] = post.differences(stream)
                found[f"{stream.name} strays"] = post.strays(stream)
            found["old has"] = self._wrong(look(post.old, "old"))
            found["new has"] = self._wrong(look(post.new, "new"))
            for side, connection in (("old", post.old), ("new", post.new)):
                owner = ownership.read(connection, "post")
                if owner != ownership.Ownership(self.new_below, self.epoch):
                    found[f"owner on {side}"] = owner
        finally:
            post.old.close()
            post.new.close()
        print(f"seed {self.seed}: {dict(self.truth.acknowledged)}; {self.told}")
        for name in (WORKER, SECOND):
            self.ground.kill(name)
        found["died by itself"] = list(self.ground.died)
        # Nor did the worker meet what its author had not foreseen, though it went on.
        found["unexpected"] = self._unexpected()
        wrong = {name: what for name, what in found.items() if what}
        if wrong:
            raise Reckoned(f"seed {self.seed}: {textwrap.shorten(str(wrong), MOST)}; {self.told}")

    def _crossed(self) -> bool:
        try:
            return all(
                barrier.wait(stream, 5.0).passed
                for stream in (self.post.forward, self.post.reverse)
            )
        except (SplitctlError, psycopg.OperationalError):
            return False

    def _fresh(self) -> Post:
        old, new = (psycopg.connect(dsn, autocommit=True) for dsn in self.dsns.values())
        return Post(self.post.config, old, new)

    def _wrong(self, held: dict[tuple[str, object], str | None]) -> list[str]:
        """What stands there and may not, or does not stand there and must."""
        possible = self.truth.possible
        wrong = [
            f"{thing}: {held.get(thing)} instead of {sorted(map(str, allowed))}"
            for thing, allowed in possible.items()
            if held.get(thing) not in allowed
        ]
        return wrong + [f"{thing}: never written" for thing in held if thing not in possible]

    def _unexpected(self) -> list[str]:
        """What the tool's log tells of mistakes of ours, with their tracebacks."""
        log = self.ground.directory / "state" / "splitctl.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        log.unlink(missing_ok=True)
        return re.findall(r"^.*: unexpected\nTraceback.*\n(?:[ ].*\n)*.*$", text, re.MULTILINE)


def direct(config: Path, dsns: dict[Side, str]) -> Config:
    """The same configuration with other secrets: not through the proxies."""
    folder = config.parent / "direct"
    (folder / "secrets").mkdir(mode=0o700, parents=True)
    (folder / "mappings").symlink_to(config.parent / "mappings")
    secrets = {path.name: path.read_text() for path in (config.parent / "secrets").iterdir()}
    secrets |= {"order.dsn": dsns["old"], "checkout.dsn": dsns["new"]}
    for name, value in secrets.items():
        path = folder / "secrets" / name
        path.write_text(value)
        path.chmod(0o600)
    copy = folder / "config.toml"
    copy.write_text(config.read_text())
    return load(copy)
