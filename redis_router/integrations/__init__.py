"""The fleet's breaker inside what people run already. Each part imports its library only when it is imported itself."""
