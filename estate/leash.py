"""A program that ends when the process that started it ends, even by kill -9.

Run as a script: `leash.py PARENT SIGNAL UID GID COMMAND...` (UID and GID -1: unchanged). It takes
no import from the package, so that it starts in a few milliseconds.
"""

import ctypes
import os
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PARENT_GONE = 71


def leashed(
    command: Sequence[str], *, death_signal: int, uid: int = -1, gid: int = -1
) -> list[str]:
    """The command line that ends when the thread that starts it, or this process, ends."""
    leash = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    return [*leash, str(int(death_signal)), str(uid), str(gid), *command]


def main(arguments: list[str]) -> None:
    """Change the user, ask the kernel for the death signal, then become COMMAND."""
    parent, death_signal, uid, gid = (int(word) for word in arguments[:4])
    command = arguments[4:]
    if gid >= 0:
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0:
        os.setuid(uid)
    # After the change of user: the kernel forgets the death signal when credentials change.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the signal was asked for.
    if os.getppid() != parent:
        sys.exit(PARENT_GONE)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
