"""All mutants, from the lists of this package."""

import pkgutil
from importlib import import_module

import tests.mutants
from tests.mutants.mutant import Mutant


def all_mutants() -> dict[str, Mutant]:
    """By name. Raises ValueError if two share one."""
    found: dict[str, Mutant] = {}
    for module in pkgutil.iter_modules(tests.mutants.__path__, "tests.mutants."):
        if module.name.startswith("tests.mutants.list_"):
            for mutant in import_module(module.name).MUTANTS:
                if mutant.name in found:
                    raise ValueError(f"two mutants are called {mutant.name}")
                found[mutant.name] = mutant
    return found
