"""Mutants: deliberate violations of the specification, each of which must make a test fail.

They show that the tests bite. A mutant is a piece of the package's source with one thing changed,
put in place when the environment variable VIOBLK_MUTANT names it; the package knows nothing of
that. The lists are in the modules beside this one, each in a `MUTANTS`.
"""
