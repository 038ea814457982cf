"""How many instructions the driver's part of a request takes, counted by callgrind.

A count does not depend on how fast the machine is or how busy, so that it can be held to a bound
where a time cannot. `python -m tests.instructions` prints all counts and where they are spent.
"""
