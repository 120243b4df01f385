"""Readers who borrow, renew and return without pause, and remember all they were promised."""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from services.gateway.buckets import bucket
from tests.general.shelves import LoanKey, held, later

PATRONS = 3
THINK_S = 0.05
PATIENCE_S = 20.0
BRANCHES = ("north", "süd", "E/2")
WORDS = ("", "née", "it's", 'a "b"', "tab\there", None)


def owner(reader: int, percentage: int) -> str:
    """The side that should hold a reader's rows at a percentage."""
    return "new" if bucket(f"reader:{reader}") < 100 * percentage else "old"


class Patron(threading.Thread):
    """One client: acts for every PATRONS-th reader, one act at a time, never the same twice."""

    def __init__(self, number: int, urls: list[str], crowd: "Patrons") -> None:
        super().__init__(name=f"patron-{number}", daemon=True)
        self.number, self.urls, self.crowd = number, urls, crowd
        self.chance = random.Random(number)
        self.acting = threading.Lock()
        self.readers: dict[int, dict[str, Any]] = {}
        self.loans: dict[LoanKey, dict[str, Any]] = {}
        self.forgotten: dict[LoanKey, int] = {}  # with their reader
        self.seen: Counter[tuple[int, str]] = Counter()
        self._next = 10_000 + number

    def run(self) -> None:
        """Act until told to stop, or until an answer is not the expected one."""
        try:
            with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
                while not self.crowd.stopped.wait(self.crowd.think_s):
                    with self.acting:
                        self._act(client)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test has to hear of it
            self.crowd.failures.append(f"{self.name}: {type(error).__name__}: {error}")

    def _act(self, client: httpx.Client) -> None:
        act = self._choose()
        answer = client.post(f"{self.chance.choice(self.urls)}/desk", json=act)
        assert answer.status_code == 200, f"{act}: {answer.status_code} {answer.text}"
        told = answer.json()
        assert told["side"] == owner(act["reader"], told["percentage"]), (act, told)
        self._remember(act)
        self.seen[told["percentage"], told["side"]] += 1

    def _choose(self) -> dict[str, Any]:
        chance = self.chance
        what = chance.choices(
            ("join", "prefer", "lend", "renew", "charge", "waive", "close", "note", "forget"),
            (1, 2, 4, 4, 3, 2, 2, 2, 2),
        )[0]
        if what == "join":
            self._next += PATRONS
            prefs = {"since": self._next, "deep": [{"x": None}]}
            return {"act": what, "reader": self._next, "name": f"New {self._next}",
                    "email": chance.choice(WORDS), "prefs": prefs}  # fmt: skip
        if what in ("prefer", "lend"):
            reader = chance.choice(list(self.readers))
            if what == "prefer":
                prefs = {"w": chance.choice(WORDS), "n": chance.randrange(9)}
                return {"act": what, "reader": reader, "prefs": prefs,
                        "email": chance.choice(WORDS)}  # fmt: skip
            self._next += PATRONS
            return {"act": what, "reader": reader, "branch": chance.choice(BRANCHES),
                    "number": self._next, "title": f"Book {self._next}", "due": "2026-03-31",
                    "details": chance.choice((None, {"s": "ß"}, [1.10, "x"]))}  # fmt: skip
        fined = [key for key, loan in self.loans.items() if loan["fine"] is not None]
        if what == "waive" and not fined:
            what = "note"
        branch, number = chance.choice(fined if what == "waive" else list(self.loans))
        loan = self.loans[branch, number]
        act = {"act": what, "reader": loan["reader"], "branch": branch, "number": number}
        match what:
            case "renew":
                days = chance.choice((7, 14, 28))
                act |= {"days": days, "due": later(loan["due"], days)}
            case "charge":
                act["fine"] = f"{chance.randrange(1, 5000) / 100:.2f}"
            case "close":
                act["state"] = chance.choice(("returned", "lost"))
            case "note":
                act["note"] = chance.choice(WORDS)
        return act

    def _remember(self, act: Mapping[str, Any]) -> None:
        what, reader = act["act"], act["reader"]
        if what in ("join", "prefer"):
            self.readers.setdefault(reader, {}).update(
                {k: act[k] for k in ("reader", "name", "email", "prefs") if k in act}
            )
            return
        key = (act["branch"], act["number"])
        match what:
            case "lend":
                fresh = {"state": "out", "note": None, "fine": None, "renewals": []}
                self.loans[key] = {k: v for k, v in act.items() if k != "act"} | fresh
            case "renew":
                self.loans[key]["due"] = act["due"]
                self.loans[key]["renewals"] = sorted([*self.loans[key]["renewals"], act["days"]])
            case "forget":
                del self.loans[key]
                self.forgotten[key] = reader
            case "waive":
                self.loans[key]["fine"] = None
            case _:
                self.loans[key] |= {k: act[k] for k in ("fine", "state", "note") if k in act}


class Patrons:
    """All patrons, and what they were promised together. `old_dsn` holds what was before them."""

    def __init__(self, urls: list[str], dsns: Mapping[str, str]) -> None:
        self.dsns = dsns
        self.stopped = threading.Event()
        self.think_s = THINK_S
        self.failures: list[str] = []
        self.all = [Patron(number, urls, self) for number in range(PATRONS)]
        readers, loans = held(dsns["old"], "old")
        for number, row in readers.items():
            self.all[number % PATRONS].readers[number] = row
        for key, row in loans.items():
            self.all[row["reader"] % PATRONS].loans[key] = row

    def start(self) -> None:
        """Open the doors."""
        for patron in self.all:
            patron.start()

    def stop(self) -> None:
        """Everybody home; every act under way ends first."""
        self.stopped.set()
        for patron in self.all:
            patron.join(PATIENCE_S)
            assert not patron.is_alive(), patron.name

    @property
    def acknowledged(self) -> int:
        """All acts that were acknowledged."""
        return sum(sum(patron.seen.values()) for patron in self.all)

    @contextlib.contextmanager
    def hurrying(self) -> Iterator[None]:
        """Nobody thinks between two acts meanwhile."""
        self.think_s = 0.0
        try:
            yield
        finally:
            self.think_s = THINK_S

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Nobody acts meanwhile; nothing is under way."""
        with contextlib.ExitStack() as stack:
            for patron in self.all:
                assert patron.acting.acquire(timeout=PATIENCE_S), f"{patron.name} hangs"
                stack.callback(patron.acting.release)
            yield

    def missing(self, percentage: int) -> list[str]:
        """Promises that the side which should hold them at this percentage does not hold."""
        found: list[str] = []
        with self.resting():
            # At 0 and 100 % the other side is not asked: its tables may be archived.
            used = [s for s, u in (("old", percentage < 100), ("new", percentage > 0)) if u]
            sides = {side: held(self.dsns[side], side) for side in used}
            for patron in self.all:
                for number, wanted in patron.readers.items():
                    side = owner(number, percentage)
                    if sides[side][0].get(number) != wanted:
                        found.append(f"{side} reader {number}: {wanted}")
                for key, wanted in patron.loans.items():
                    side = owner(wanted["reader"], percentage)
                    has = sides[side][1].get(key)
                    if has != wanted:
                        found.append(f"{side} loan {key}: {wanted}, not {has}")
                for key, number in patron.forgotten.items():
                    side = owner(number, percentage)
                    if key in sides[side][1]:
                        found.append(f"{side} loan {key} is back")
        return found
