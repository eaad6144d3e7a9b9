"""Attestation: evidence in, verdict out (spec/attestation.md)."""
