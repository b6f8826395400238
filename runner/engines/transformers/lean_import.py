"""Imports torch and transformers as serving needs them: sooner, and with threads that get along with their neighbours.

transformers touches torch's compiler and its multi-machine half while it is imported. Neither is needed to generate, so
torch is said to have no distributed half, as some of its builds do not, and the compiler is loaded when something
really asks for it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
# What libraries write above their functions, for a compiler that never runs here.
DECORATORS = ("disable", "allow_in_graph", "assume_constant_result")
# How often torch's threads look for their next piece of work before they sleep. The default is thirty times as much:
# where another process wants the same cores, each of a token's hundreds of pieces then waits for the scheduler.
SPINS = "10000"


def import_torch() -> Any:
    """The torch module, with what transformers would drag in put off. Call before anything imports transformers."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

    import torch
    import torch.distributed

    if "transformers" not in sys.modules:
        torch.distributed.is_available = lambda: False
        _put_off_compiler(torch)
    return torch


def _put_off_compiler(torch: Any) -> None:
    spec = importlib.util.find_spec(COMPILER)
    if spec is None or COMPILER in sys.modules:
        return
    sys.modules[COMPILER] = torch._dynamo = _LateCompiler(spec)


class _LateCompiler(ModuleType):
    """Stands for the compiler's package, and becomes it when any of it but its decorators is used."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__file__ = spec.origin
        # So that the package's light submodules can be imported without the package itself.
        self.__path__ = list(spec.submodule_search_locations or ())
        vars(self).update(dict.fromkeys(DECORATORS, _undecorated))

    def __getattr__(self, name: str) -> Any:
        # Only names that are missing come here; the machinery of imports probes for some that no package has.
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        loader, self.__class__ = self.__spec__.loader, ModuleType  # type: ignore[assignment]
        for decorator in DECORATORS:
            delattr(self, decorator)
        loader.exec_module(self)
        return getattr(self, name)


def _undecorated(function: Any = None, *_args: Any, **_kwargs: Any) -> Any:
    """A decorator, with or without arguments, that leaves the function as it is: nothing is compiled yet."""
    return function if callable(function) else _undecorated
