"""A whole fleet on one machine: what `redis-router demo` starts, and what docker-compose.yml runs."""
