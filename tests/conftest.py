"""Fixtures that every test may ask for; they start nothing until one does."""

pytest_plugins = ["support.anvil"]
