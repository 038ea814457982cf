"""vioblk beside other ways to the same disk: `python -m benches.peers`.

Reading order: `daemon` (the disk), `children` (the peers that are programs of their own), `ours`,
`bounds`, `cases` (what is measured beside what), `__main__`.
"""
