"""Choosing a provider: pure functions of records and tables. No thread, no lock, no I/O."""
