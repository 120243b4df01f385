"""Where a search begins: small worlds, each with what may still happen in it.

A story has few writes and one kind of trouble, so that all of its states can be looked at; together
they have every kind of trouble at every point.
"""

from tests.model.cures import Without
from tests.model.states import (
    NEW,
    Change,
    Command,
    Copy,
    Gateway,
    Hidden,
    Owner,
    Row,
    State,
    Stream,
    Version,
)

WRITE_A, WRITE_B = Change("write", (0,)), Change("write", (1,))
WRITE_BOTH, SWAP = Change("write", (0, 1)), Change("swap", (0, 1))
DELETE_A, DELETE_B = Change("delete", (0,)), Change("delete", (1,))
MOVE, HUGE = Change("move", (0, 1)), Change("huge", (0, 1))

A, B = Row(0, gone=False), Row(1, gone=False)
ABSENT_A, ABSENT_B = Row(0), Row(1)
FIRST = (Version(0, 0b1, 0), Version(1, 0b10, 1))
TWO_LIVE = Stream(
    states=("live", "live"),
    spool=(0, 0),
    parked=("", ""),
    newer=(False, False),
    remembered=(None, None),
)
TWO_SPOOLED = TWO_LIVE._replace(states=("spool", "spool"))

# One key, on both sides.
EQUAL = State(rows=((A,), (A,)), streams=(Stream(), Stream()), versions=FIRST[:1])
MOVED = EQUAL._replace(owner=(Owner(NEW, 2), Owner(NEW, 2)), gateway=Gateway(NEW, 2), moves="r")
# A parent and its child; two rows of one table with a unique value.
FAMILY = State(
    rows=((A, B), (A, B)), streams=(TWO_LIVE, TWO_LIVE), versions=FIRST, parents=(None, 0)
)
TWINS = FAMILY._replace(parents=(None, None), unique=True)
# Nothing is on the new side yet.
EMPTY = FAMILY._replace(
    rows=((A, B), (ABSENT_A, ABSENT_B)), streams=(TWO_SPOOLED, TWO_LIVE), copy=Copy("slot")
)
EMPTY_TABLE = EQUAL._replace(
    rows=((A,), (ABSENT_A,)),
    streams=(Stream(states=("spool",)), Stream()),
    copy=Copy("fast slot"),
)

STORIES: dict[str, State] = {
    # The worker
    "writes, and a worker is killed": FAMILY._replace(
        customers=((WRITE_BOTH, DELETE_A), (WRITE_A, WRITE_B)), crashes=1
    ),
    "several lanes, and a worker is killed": FAMILY._replace(
        customers=((WRITE_BOTH, DELETE_A), (WRITE_A, WRITE_B, DELETE_B)), crashes=1, lanes=True
    ),
    "a family is born, and the target refuses a row": FAMILY._replace(
        rows=((ABSENT_A, ABSENT_B), (ABSENT_A, ABSENT_B)),
        customers=((WRITE_A,), (WRITE_B,)),
        crashes=1,
        refusals=1,
    ),
    "a child is moved, or dies": FAMILY._replace(
        customers=((MOVE, DELETE_B), (DELETE_B, WRITE_B)), crashes=1
    ),
    "a child is written without asking while its parent is deleted": FAMILY._replace(
        customers=((DELETE_A,),), others=(WRITE_B,), lags=False
    ),
    "the target refuses a row": FAMILY._replace(
        customers=((WRITE_A,), (WRITE_BOTH,)), crashes=1, refusals=1, lanes=True
    ),
    "two rows swap a unique value": TWINS._replace(
        customers=((SWAP,), (SWAP, WRITE_A)), crashes=1, refusals=1
    ),
    "two rows swap a unique value between lanes": TWINS._replace(
        customers=((SWAP,), (SWAP, WRITE_A)), crashes=1, lanes=True
    ),
    "a huge transaction": FAMILY._replace(customers=((HUGE,), (WRITE_BOTH,)), crashes=1),
    "a huge transaction, and lanes": FAMILY._replace(
        customers=((WRITE_A,), (HUGE,), (WRITE_BOTH,)), crashes=1, lanes=True
    ),
    # The target is away
    "the target is away for a while": FAMILY._replace(
        customers=((WRITE_BOTH,), (WRITE_A,)), crashes=1, outages=1
    ),
    "the target is away after a step": EQUAL._replace(
        customers=((WRITE_A,),), outages=1, moves="f", lags=False
    ),
    "the target fails over to a replica that lags": EQUAL._replace(
        customers=((WRITE_A,), (WRITE_A, DELETE_A)), failovers=1, crashes=1
    ),
    # The copy
    "a backfill": EMPTY._replace(
        customers=((WRITE_A, WRITE_BOTH, DELETE_A), (WRITE_B, DELETE_B)), crashes=1
    ),
    "a backfill that is drained beside the log": EMPTY._replace(
        customers=((WRITE_A,), (WRITE_A, WRITE_BOTH)), lanes=True, beside=True
    ),
    "a backfill, and a commit older than the slot": EMPTY._replace(
        versions=(*FIRST, Version(0, 0b101, 0)),
        hidden=(Hidden(1, ((0, (2, False)),)), None),
        writes=(1, 0),
        customers=((WRITE_A, DELETE_A),),
        lanes=True,
    ),
    "the fast copy": EMPTY_TABLE._replace(customers=((WRITE_A, DELETE_A), (WRITE_A,)), crashes=1),
    # Steps
    "a step with customers, with a kill": EQUAL._replace(
        customers=((WRITE_A,), (WRITE_A, DELETE_A)), crashes=1, moves="f"
    ),
    "a step beside a job that asks for the owner": EQUAL._replace(
        customers=((WRITE_A,),), jobs=1, crashes=1, moves="f"
    ),
    "a step while the target refuses a row": EQUAL._replace(
        customers=((WRITE_A,), (WRITE_A,)), refusals=1, moves="f"
    ),
    "a step, and somebody writes without asking": EQUAL._replace(
        customers=((WRITE_A,),), others=(WRITE_A,), moves="f", lags=False
    ),
    "a step that was killed, and both sides are written without asking": EQUAL._replace(
        gateway=Gateway(NEW, 2),
        owner=(Owner(NEW, 2), Owner()),
        command=Command("recover", 2),
        others=(WRITE_A, WRITE_A),
    ),
    "a step of a family, by lanes": FAMILY._replace(
        customers=((WRITE_BOTH,), (WRITE_B, DELETE_A)), lanes=True, moves="f", lags=False
    ),
    "a step that falls asleep": EQUAL._replace(
        customers=((WRITE_A,), (WRITE_A,)), sleeps=1, moves="f", lags=False
    ),
    "a step that falls asleep, and the next step": EQUAL._replace(
        customers=((WRITE_A,),), sleeps=1, moves="ff", lags=False
    ),
    "a step that falls asleep, and a rollback": EQUAL._replace(
        customers=((WRITE_A,),), sleeps=1, moves="fr", lags=False
    ),
    # The way back
    "a rollback, with a kill": MOVED._replace(customers=((WRITE_A,), (WRITE_A,)), crashes=1),
    "a rollback while the way back stands still": MOVED._replace(
        customers=((WRITE_A,), (WRITE_A,)), stops=1
    ),
    "a rollback while the old side refuses a row": MOVED._replace(
        customers=((WRITE_A,), (WRITE_A,)), refusals=1
    ),
    "a rollback while the way back is in the spool": MOVED._replace(
        customers=((WRITE_A,), (WRITE_A,)), streams=(Stream(), Stream(states=("drain",)))
    ),
    "a rollback while the new database is away, which then comes back": MOVED._replace(
        customers=((WRITE_A,), (WRITE_A,)), deaths=1
    ),
    "a rollback, and somebody writes without asking": MOVED._replace(
        customers=((WRITE_A,),), others=(WRITE_A,)
    ),
    "a rollback, writes without asking, and strays are carried on proof": MOVED._replace(
        customers=((WRITE_A,),), others=(WRITE_A,), rule="carry", lags=False
    ),
    "a rollback in the middle of a step": EQUAL._replace(
        customers=((WRITE_A,), (WRITE_A,)), moves="fr", lags=False
    ),
}

AGAIN = "a rollback while the new database is away, which then comes back"
HUGE_IN_LANES = "a huge transaction, and lanes"
BACKFILL, HUGE_ONE, AWAY = "a backfill", "a huge transaction", "the target is away for a while"
KILLED, LANES = "writes, and a worker is killed", "several lanes, and a worker is killed"
MOVE_OR_DEATH, REFUSED_IN_STEP = (
    "a child is moved, or dies",
    "a step while the target refuses a row",
)
STEP, ROLLBACK = "a step with customers, with a kill", "a rollback, with a kill"
JOB, ASLEEP = "a step beside a job that asks for the owner", "a step that falls asleep"
SWAPPED = "a step that was killed, and both sides are written without asking"

# The stories in which each cure is needed.
NEEDED_IN = {
    Without.READING_ANEW: (BACKFILL,),
    Without.VISIBILITY: (KILLED, LANES, STEP),
    Without.SPOOLING: (BACKFILL,),
    Without.PARTS_VISIBLE: (HUGE_ONE, HUGE_IN_LANES),
    Without.REFUGE_VISIBLE: (AWAY,),
    Without.ONE_TRANSACTION: (KILLED, STEP),
    Without.ALL_LANES: (LANES,),
    Without.CHUNK_WITH_PLACE: (BACKFILL,),
    Without.WHOLE_HUGE: (HUGE_ONE, HUGE_IN_LANES),
    Without.LEDGER_FIRST: (AWAY,),
    Without.LANDING_FIRST: (AWAY,),
    Without.TOLD_AT: ("the target is away after a step",),
    Without.OWNER: (SWAPPED, AGAIN),
    Without.MARK: (KILLED,),
    Without.ASKING: (ROLLBACK,),
    Without.FRESHNESS: (SWAPPED, ROLLBACK),
    Without.AGREEMENT: (AGAIN,),
    Without.OPPOSITE_PARKED: (ROLLBACK,),
    Without.HORIZON_FIRST: (ROLLBACK,),
    Without.STOPPED_HORIZON: ("a rollback while the way back stands still",),
    Without.SPOOL_IN_HORIZON: ("a rollback while the way back is in the spool",),
    Without.PROOF: (AGAIN,),
    Without.ASKED_IS_NO_CHANGE: (
        "a rollback, writes without asking, and strays are carried on proof",
    ),
    Without.WHOLE_BARRIER: (REFUSED_IN_STEP,),
    Without.FIRST_POSITION: ("a rollback while the old side refuses a row",),
    Without.PARKED_DURABLY: ("a family is born, and the target refuses a row",),
    Without.GENERATIONS: ("a backfill that is drained beside the log",),
    Without.KEY_LANES: ("the target refuses a row",),
    Without.CLAIM: (KILLED, LANES),
    Without.POSITION_CHECK: ("the target fails over to a replica that lags",),
    Without.QUIESCENCE: (STEP,),
    Without.ACKNOWLEDGEMENT: (STEP,),
    Without.OLD_KEY: (MOVE_OR_DEATH,),
    Without.DELETING: (MOVE_OR_DEATH,),
    Without.LOOKING_BELOW: ("a child is written without asking while its parent is deleted",),
    Without.MERGING: ("two rows swap a unique value",),
    Without.OLDER_TRANSACTIONS: ("a backfill, and a commit older than the slot",),
    Without.DELETING_SPOOLED: ("the fast copy",),
    Without.DECODING: ("the fast copy",),
    Without.SECOND_BARRIER: (JOB,),
    Without.WINNER_LAST: (STEP,),
    Without.DISPUTED: (SWAPPED,),
    Without.FORGOING: (ASLEEP,),
    Without.NEWER_EPOCH: (ASLEEP,),
    Without.EPOCHS: ("a step that falls asleep, and a rollback",),
}

# With more trouble at once: searched with the fault campaign.
LONG_STORIES: dict[str, State] = {
    "a step, and somebody writes without asking, and commits are slow to be seen": EQUAL._replace(
        customers=((WRITE_A,),), others=(WRITE_A,), crashes=1, moves="f"
    ),
}
LIMITS = {
    "a delete that had not crossed": MOVED._replace(
        customers=((DELETE_A,), (WRITE_A,)), lags=False
    ),
}
