"""Homomorphic aggregation: clients encrypt, the server adds, whoever holds the secret key decrypts the sum."""
