"""The question of `benchmarks.quality`, with nothing simulated: who chooses best when providers fail?

    python -m benchmarks.fleet
    python -m benchmarks.fleet --minutes 3 --policies redis_router "the original"

Six gateway processes, five providers and a load generator speak HTTP with each other, beside a Redis server. Every
policy in turn meets the same arrivals, the same service times and the same four incidents; then the simulation of
`benchmarks.quality.worlds` plays them, too, so that one sees how far from reality it is.

plan       the fleet, its load and its incidents, as a shape of the simulation
policies   who asks which provider, in one gateway
gateway    one gateway process
providers  the process of the providers
load       the process that sends the requests
web, wall  how processes listen, and what time it is in a run
processes  starts and ends processes
run        one run of one policy
simulated  the same run in virtual time
log        what a run writes down
score      what it comes to
report     tables and JSON
"""
