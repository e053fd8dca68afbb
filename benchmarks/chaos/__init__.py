"""A soak: a fleet with real traffic, while a seeded plan breaks whatever there is, and puts it right again.

    python -m benchmarks.chaos --minutes 4 --seed 7
    python -m benchmarks.chaos --minutes 0.5 --seed 7 --faults rights_hset mangled_number

`fleet` runs the processes, `faults`, `records` and `links` do the harm, `replica` is one gateway process and writes
down all it does, `verdict` and `service` read what was written and say whether every promise was kept. `--mutate`
breaks the scripts on purpose: the verdict must find it.
"""
