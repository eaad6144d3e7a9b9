"""How JSON carries the term of a committee (spec/gatekeepers.md R3)."""

from __future__ import annotations

from cloister.core.encoding.hexes import BAD_FIELD, need_uint


def term_field(term: int) -> dict[str, int]:
    """How JSON carries a term: the field ``term``, left out in term 1, as the format was before there were others."""
    return {} if term == 1 else {"term": term}


def term_of(name: str, value: object) -> int:
    """The term that an object of JSON says. Raises EncodingError for a term 1 written out: one spelling each."""
    if not isinstance(value, dict) or "term" not in value:
        return 1
    term = need_uint(f"term of {name}", value["term"], 64)
    if term == 1:
        raise BAD_FIELD(expected=f"{name} of term 1 without the field term", found="the field")
    return term
