"""What a circuit is and does: values and pure functions. Knows nothing of Redis, threads or clocks."""
