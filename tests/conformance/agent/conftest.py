"""The fixture ``sandbox``: one real sandbox per test module."""

from support.sandbox_fixture import sandbox

__all__ = ["sandbox"]
