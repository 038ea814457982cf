"""What a mutant is, and how it takes the place of the real thing."""

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """One function of the package with one thing changed."""

    name: str
    violation: str
    """What it does wrong."""
    function: str
    """module:qualified.name"""
    old: str
    """Text that stands in the function's source exactly once."""
    new: str
    test: str
    """The node id of the test that must fail."""

    def apply(self) -> None:
        """Put the changed function in the place of the real one, for this process."""
        module_name, _, qualified_name = self.function.partition(":")
        module = import_module(module_name)
        *owners, attribute = qualified_name.split(".")
        owner: Any = module
        for part in owners:
            owner = getattr(owner, part)
        original = inspect.getattr_static(owner, attribute)
        changed = self._changed(original, attribute)
        setattr(owner, attribute, changed)
        if owner is module:
            _replace_imported(original, changed)

    def _changed(self, original: Any, name: str) -> Any:
        function: Any = original.fget if isinstance(original, property) else original
        function = inspect.unwrap(function)
        source = textwrap.dedent(inspect.getsource(function))
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"mutant {self.name}: {self.old!r} stands {found} times in\n{source}")
        scope: dict[str, Any] = {}
        code = compile(source.replace(self.old, self.new), f"<mutant {self.name}>", "exec")
        # Its globals are those of the module where it is written, so that it sees what the original
        # saw: what a class has inherited may stand in another module.
        exec(code, function.__globals__, scope)
        return scope[name]


def _replace_imported(original: object, changed: Callable[..., object]) -> None:
    """Modules that did `from module import function` hold a name of their own for it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("vioblk."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, changed)
