"""Imports torch and transformers faster, and with threads that leave room for other processes.

The import of transformers uses torch's compiler and its distributed part. Generating needs neither. So torch claims to
have no distributed part, as some of its builds do not, and the compiler loads only when something really uses it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
# Decorators that libraries use, for a compiler that never runs here.
DECORATORS = ("disable", "allow_in_graph", "assume_constant_result")
# How often torch's threads look for their next piece of work before they sleep. The default is thirty times as much: if
# another process needs the same cores, each of the hundreds of pieces of a token then waits for the scheduler.
SPINS = "10000"


def import_torch() -> Any:
    """Return torch, without the parts that transformers would import needlessly. Call before importing transformers."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

    import torch
    import torch.distributed

    if "transformers" not in sys.modules:
        torch.distributed.is_available = lambda: False
        _delay_compiler(torch)
    return torch


def _delay_compiler(torch: Any) -> None:
    spec = importlib.util.find_spec(COMPILER)
    if spec is None or COMPILER in sys.modules:
        return
    sys.modules[COMPILER] = torch._dynamo = _LateCompiler(spec)


class _LateCompiler(ModuleType):
    """Stands in for the compiler's package, and becomes it when something uses more of it than its decorators."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__file__ = spec.origin
        # Lets others import the package's light submodules without the package itself.
        self.__path__ = list(spec.submodule_search_locations or ())
        vars(self).update(dict.fromkeys(DECORATORS, _leave_undecorated))

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for missing names; the import system also probes for some that no package has.
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        loader, self.__class__ = self.__spec__.loader, ModuleType  # type: ignore[assignment]
        for decorator in DECORATORS:
            delattr(self, decorator)
        loader.exec_module(self)
        return getattr(self, name)


def _leave_undecorated(function: Any = None, *_args: Any, **_kwargs: Any) -> Any:
    """Return the function as it is: a decorator with or without arguments, which compiles nothing yet."""
    return function if callable(function) else _leave_undecorated
