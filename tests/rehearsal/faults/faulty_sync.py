"""`python -m tests.rehearsal.faults.faulty_sync FAULT rehearse...`: a rehearsal whose sync errs."""

import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from rehearsal.processes import READY_LIMIT_S, Program, Programs
from splitctl.main import main


def faulty_sync(fault: str) -> AbstractContextManager[object]:
    """While it lasts, a sync worker that is started makes this mistake."""
    whole = Programs.start

    def start(self: Programs, *programs: Program, limit_s: float = READY_LIMIT_S) -> None:
        erring = (faulty(program, fault) for program in programs)
        whole(self, *erring, limit_s=limit_s)

    return patch.object(Programs, "start", start)


def faulty(program: Program, fault: str) -> Program:
    """The same program; if it is sync, then with the mistake wrapped around it."""
    if program.name != "sync":
        return program
    words = list(program.command)
    at = words.index("splitctl")
    return replace(program, command=[*words[:at], "tests.faulty", fault, *words[at + 1 :]])


if __name__ == "__main__":
    with faulty_sync(sys.argv[1]):
        sys.argv = ["splitctl", *sys.argv[2:]]
        main()
