"""Traces: one span for each request, one child for each of its attempts, and the transitions they lived through.

router    the router that makes traced attempts
attempts  attempts and requests: when their spans begin and end
place     where an attempt's span is the current one
spans     the spans: names, attributes, events
"""

from redis_router.integrations.opentelemetry.router import TracedRouter

__all__ = ["TracedRouter"]
