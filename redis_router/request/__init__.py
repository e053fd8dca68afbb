"""One request: its attempts, their time, and what an exception says about a provider."""
