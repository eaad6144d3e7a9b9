"""Tables of text: read, described, grouped."""

import csv
import io
from statistics import fmean, median

MOST_ROWS, MOST_COLUMNS = 20_000, 100


class BadTable(ValueError):
    """What was sent is no table, or not one that this agent takes."""


def read(text: str) -> tuple[list[str], list[list[str]]]:
    """Column names and rows. Raises BadTable."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise BadTable(f"no CSV: {error}") from None
    if len(rows) < 2:
        raise BadTable("a line of names and at least one of values")
    names, values = [name.strip() for name in rows[0]], rows[1:]
    if len(set(names)) != len(names) or not all(names) or len(names) > MOST_COLUMNS:
        raise BadTable(f"1 to {MOST_COLUMNS} columns of different names")
    if len(values) > MOST_ROWS or any(len(row) != len(names) for row in values):
        raise BadTable(f"at most {MOST_ROWS} rows, each with a value per column")
    return names, values


def numbers(values: list[str]) -> list[float] | None:
    """The numbers in a column; None if something else is in it. Empty cells count as missing."""
    try:
        return [float(value) for value in values if value.strip()]
    except ValueError:
        return None


def describe(names: list[str], rows: list[list[str]]) -> dict:
    """One entry per column: numbers are measured, everything else is counted."""
    found = {}
    for at, name in enumerate(names):
        column = [row[at] for row in rows]
        known = numbers(column)
        if known:
            facts = {"least": min(known), "most": max(known), "mean": fmean(known), "median": median(known)}
            found[name] = {"kind": "number", "missing": len(column) - len(known), **facts}
        else:
            found[name] = {"kind": "text", "missing": sum(not v.strip() for v in column), "different": len(set(column))}
    return {"rows": len(rows), "columns": found}


def group(names: list[str], rows: list[list[str]], by: str, of: str) -> dict[str, dict[str, float]]:
    """Count, sum and mean of the column ``of`` for each value of the column ``by``. Raises BadTable."""
    if by not in names or of not in names:
        raise BadTable(f"columns of the table: {', '.join(names)}")
    by_at, of_at = names.index(by), names.index(of)
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row[by_at], []).append(row[of_at])
    found = {}
    for value, cells in groups.items():
        known = numbers(cells)
        if known is None:
            raise BadTable(f"numbers in the column {of}")
        found[value] = {"count": len(known), "sum": sum(known), "mean": fmean(known) if known else 0.0}
    return found
