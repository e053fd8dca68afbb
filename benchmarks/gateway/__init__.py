"""`redis-router gateway` beside LiteLLM's proxy: what they add, what they cost, and what users see in incidents."""
