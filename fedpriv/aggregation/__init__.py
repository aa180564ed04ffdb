"""Protocols that compute the sum of the clients' integer vectors and say who learns what."""
