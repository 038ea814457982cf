"""Rings in pure Python, written for speed: what "how many times as fast as Python" is measured by.

Three ways, each for split and packed rings, direct and indirect, with and without event index:

- `generic_split`, `generic_packed`: any request. Descriptors come from a free list, header,
  descriptors and available entry are written for each request, tokens come back.
- `slots_split`, `slots_packed`: chains written once for buffers that stay; a submit is a sector, a
  status byte and what the ring needs. Plain Python, which moves whole slices where it can.
- `numpy_split`, `numpy_packed`: the same, a whole batch by each store of numpy.

What makes them fast: memoryviews cast to the width of a word (a store is 16 to 26 ns, half of what
`struct.pack_into` costs per descriptor), locals in the place of attributes, one pass over a batch,
no checks, no objects but the results. What they leave out is what the package's rings are for:
nothing is checked, neither what the caller asks nor what the device answers, nothing is counted,
and no order of stores is kept, so they work with a device that runs in turns with them only.

Each offers `submit` (returns whether the device wants to be notified) and `reap`.
"""
