"""The shared state: keys, scripts, connections, and the one place where what Redis says becomes values."""
