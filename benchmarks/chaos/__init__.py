"""A soak: a fleet with real traffic, while a seeded plan kills, freezes and fails over whatever there is.

    python -m benchmarks.chaos --minutes 5 --seed 7

`plan` does the harm, `replica` is one gateway process and writes down all it does, `verdict` reads what was written and
says whether every promise was kept. `--mutate` breaks the scripts on purpose: the verdict must find it.
"""
