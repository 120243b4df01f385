"""What a check found: problems, which must be mended first, and warnings, which are to be known."""

from dataclasses import dataclass, field

from psycopg import sql

from estate.config import Problem


@dataclass
class Findings:
    """What checks add to. A `fix` can be copied and run as it is, where its `remedy` says."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def problem(self, key: str, reason: str, remedy: str, fix: str | None = None) -> None:
        """Something without which a split cannot begin."""
        self._add(self.problems, Problem(key, reason, remedy, fix))

    def warning(self, key: str, reason: str, remedy: str, fix: str | None = None) -> None:
        """Something that works, and that somebody should know of."""
        self._add(self.warnings, Problem(key, reason, remedy, fix))

    @staticmethod
    def _add(to: list[Problem], found: Problem) -> None:
        # Streams share databases and tables: the same is found more than once.
        if found not in to:
            to.append(found)


def name(*parts: str) -> str:
    """A name as it stands in a statement to copy: in quotes, since any word may be reserved."""
    return sql.Identifier(*parts).as_string()


def names(found: list[str]) -> str:
    """Several of them, with commas."""
    return ", ".join(name(part) for part in found)
