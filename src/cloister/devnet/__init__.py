"""A whole network on one machine. Spawns processes only: it imports no service (tests/unit/test_imports.py)."""
