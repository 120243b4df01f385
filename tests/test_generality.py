"""The rooms know nothing of the order split: it is configuration, and only that."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("estate", "migrator", "verify", "rollout", "splitctl")


def names_of_the_order_split() -> set[str]:
    """Every table, domain and database name of the shipped example."""
    data = tomllib.loads((ROOT / "config.example.toml").read_text(encoding="utf-8"))
    names = set(data["domains"]) | set(data["databases"])
    for domain in data["domains"].values():
        names |= {domain["flag"], domain["percentage"]}
        for mapping in [*domain["forward"], *domain["reverse"]]:
            names |= {mapping["target"], *mapping["sources"]}
    return names


def words_of(path: Path) -> set[str]:
    """Names and words in strings of a Python file; every word of another file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"[A-Za-z_]\w*", text))
    words: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= set(re.findall(r"[A-Za-z_]\w*", node.value))
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            words.add(node.name)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.arg):
            words.add(node.arg)
    return words


# Ordinary English and SQL words that the order split happens to use as names.
ORDINARY = {"order", "return"}


def test_no_name_of_the_order_split_stands_in_the_rooms() -> None:
    wanted = names_of_the_order_split()
    assert {"carts", "checkout", "return_requests"} <= wanted
    wanted -= ORDINARY
    found = {
        f"{path.relative_to(ROOT)}: {word}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in (".py", ".sql", ".toml", ".mako", ".j2")
        for word in words_of(path) & wanted
    }
    assert found == set()


def test_the_ordinary_words_are_not_used_as_names_of_the_split() -> None:
    # "order" and "return" may be English, but never a whole string such as a domain's name.
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ORDINARY
    ]
    assert found == []
