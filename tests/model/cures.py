"""The cures of the protocol, each of which can be left out: what goes on then is told here.

The first words name the law of DESIGN, or the row of PROTOCOL, that the cure belongs to.
"""

from enum import Enum


class Without(Enum):
    """A cure that is left out on purpose."""

    READING_ANEW = "L2: a key that waits keeps the row that was there when it began to wait"
    VISIBILITY = "L3: a key is read although its change is not visible yet"
    SPOOLING = "L3: keys are carried while the copy goes on"
    PARTS_VISIBLE = "L3: a part of a huge transaction is spooled before it is visible"
    REFUGE_VISIBLE = "L3: keys go to the ledger before their change is visible"
    ONE_TRANSACTION = "L4: the position is committed before the rows"
    ALL_LANES = "L4: the position is committed before the last lane has"
    CHUNK_WITH_PLACE = "L4: the place of a chunk is committed before its rows"
    WHOLE_HUGE = "L4: the position moves before the last part of a huge transaction is spooled"
    LEDGER_FIRST = "L4: the slot moves on before the keys are in the ledger"
    LANDING_FIRST = "L4: the ledger lets keys go before they are in the target's spool"
    TOLD_AT = "row 1: keys that the target had before it was away are carried once more"
    OWNER = "L5, row 1, swap and return of the dead: a key is carried whoever owns it"
    MARK = "L5, row 1: what sync wrote is carried back"
    ASKING = "L5: the owner's version is not asked for, so a stray stays where it is"
    FRESHNESS = (
        "row 1, swap and resurrection: what the opposite stream has not seen is written over"
    )
    AGREEMENT = "row 1: a key that was asked for is tried again while the owner rows differ"
    OPPOSITE_PARKED = "row 1: what is parked in the opposite stream is written over"
    HORIZON_FIRST = "row 2: the horizon is read after the source's snapshot"
    STOPPED_HORIZON = "row 2: a stopped stream is taken as one that was torn down"
    SPOOL_IN_HORIZON = "row 2: the horizon moves past what lies in the spool"
    PROOF = "row 2: a stray is carried although the owner's row has changed since the owner moved"
    ASKED_IS_NO_CHANGE = "row 2: a key that was only asked for is carried as a stray on proof"
    WHOLE_BARRIER = "row 3: a barrier looks at the position only"
    FIRST_POSITION = "row 3: keys of a batch wait since its end, though a marker stands in it"
    PARKED_DURABLY = "row 3: parked keys are in the worker's memory only"
    GENERATIONS = "row 4, lost mark: a drained key leaves the spool although it came again"
    KEY_LANES = "row 4, overtaking: a parked key is tried beside the lane that carries it"
    CLAIM = "row 4, zombie: a worker that was cut off can still commit"
    POSITION_CHECK = "row 6: a stored position that is older than the slot's is believed"
    QUIESCENCE = "row 7, a late confirm: the step does not wait for requests under way"
    ACKNOWLEDGEMENT = (
        "row 7, a pod that timed out: the step switches a gateway whose fence has ended"
    )
    OLD_KEY = "row 8, a child that left: the log does not tell under which key a child was"
    DELETING = "row 8, a promotion that survives: rows that did not come back are left standing"
    LOOKING_BELOW = "row 2, a stray child: what hangs on a row that is deleted is not looked at"
    MERGING = "row 9, two rows swap: a key whose unique value another row holds is tried alone"
    OLDER_TRANSACTIONS = "row 10: the copy does not wait for what was there before the slot"
    DELETING_SPOOLED = "row 11: rows of spooled keys are not deleted before the key is built"
    DECODING = "row 11: the key is built before decoding has passed the last chunk"
    SECOND_BARRIER = "decision 0005: nothing waits for what was written between barrier and move"
    WINNER_LAST = "decision 0005: both owner rows move before the switch"
    DISPUTED = "decision 0010: recovery waits for keys that both streams keep waiting"
    FORGOING = "a sleeping step: its epoch is not given up before the owners are taken back"
    NEWER_EPOCH = "a sleeping step: a step is taken back without raising the epoch"
    EPOCHS = "a sleeping step: the owner moves whatever epoch is there"
