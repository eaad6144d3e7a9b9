"""Agent state: sealed values, index, heads, endorsement (spec/state.md). Pure: bytes in, verified value or error."""
