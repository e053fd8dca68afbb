"""The leader's work: half-open when it is due, and probes."""
