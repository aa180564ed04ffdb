"""Sampling, clipping, mechanisms, the ledger and its accountants."""
