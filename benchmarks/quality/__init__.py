"""How good the choices are: a fleet of replicas in virtual time, through incidents, beside others and an oracle.

`python -m benchmarks.quality`. Real are the routing tables, the strategies, and the scripts on a real server, which are
told the time. Simulated are providers, requests, the network, and the threads that carry results.
"""
