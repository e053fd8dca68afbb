"""A replica's background: what carries results to Redis, keeps a live copy of the records, and decides alone."""
