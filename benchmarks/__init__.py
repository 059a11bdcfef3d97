"""A bench for monitors of the GIL: how right they are, and what they cost.

`python -m benchmarks` measures otel-gil and its peers on workloads whose true contention is known, because they make
it. `workloads` has those, `contestants` the monitors, each read as its users read it, `play` brings one of each
together in a process of its own, `costs` measures what they cost, `figures` says what follows from it.
"""
