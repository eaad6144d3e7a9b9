"""Agents on their developer's machine: the worker's sandbox, context and state, without a chain or an enclave."""
