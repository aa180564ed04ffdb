"""Cryptographic primitives. Nothing here knows a word of federated learning."""
