"""Figures, tables and files. Everything here works on data frames and knows nothing of runs."""
