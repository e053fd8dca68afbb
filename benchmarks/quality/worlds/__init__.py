"""Fleets that nobody imagined: random providers, loads and incidents, played by everybody.

`python -m benchmarks.quality --worlds 200 --seed S`. World n of seed S is the same on every machine and for every
policy. Seeds 1 to 99 are for development, whoever tunes something may look at them as often as they like; reports use
others.

shape     what a world is: values
draw      worlds from a seed
providers a provider at work, and one call at it
ground    one world in virtual time: requests and incidents
tries     a request under a policy that is asked call by call
knowing   the oracles
others    the original, LiteLLM, an Envoy
ours      this library's fleet
players   all of them by name
score     what one world came to, and many
report    tables, JSON and the chart
timeline  one world again, second by second
command   the command line
"""
