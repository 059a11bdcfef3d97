"""What runs in the observer: an interpreter of its own, which the GIL that it watches can't stop.

Standard library only, and as little of it as will do: what is imported here is imported a second time into the process.
"""
