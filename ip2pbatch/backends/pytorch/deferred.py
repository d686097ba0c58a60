"""What torch, diffusers and transformers load beside what makes pictures, loaded where it is first asked for.

diffusers' UNet draws in torch's compiler, for marks that only a compiler reads, and more than fifty other models'
transformers, because they lie in one package with its own block. Nothing is replaced here: a package is found as ever
and stands in `sys.modules` as itself, only its `__init__` runs later, when it is asked for something that is not there.
A version that asks for more at its start loads what it asks for.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_ALONE = f"{_COMPILER}._trace_wrapped_higher_order_op"
"""All that transformers takes of the compiler at its start: a module that needs nothing of its package."""

_PACKAGES = ("diffusers.models.transformers", "diffusers.hooks")
_LOADING = threading.RLock()
_alone = False


def process_is_ours() -> None:
    """Note that nobody else's code runs in this process, as the command line knows of its own, and that it trains
    nothing: `defer` may then leave out for good what only processes that work together need.
    """
    global _alone
    _alone = "WORLD_SIZE" not in os.environ


def defer() -> None:
    """Have the packages that no picture needs wait until they are asked for; what is loaded already stays so.

    Raises ModuleNotFoundError where torch, diffusers or transformers is not installed.
    """
    if compiler := _put_in_place(_COMPILER, DeferredCompiler):
        places = compiler.__path__
        vars(compiler).update(__path__=_Locations(compiler, places), _places=places)
        _load_alone(places)
    for name in _PACKAGES:
        _put_in_place(name, Deferred)
    if _alone:
        _undistributed()


def _undistributed() -> None:
    """Have transformers be as on a build of torch that shares no model among machines: a third of its start.

    It asks torch once and remembers. A version that does not remember is as ever.
    """
    import torch.distributed
    from transformers import utils

    real = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        with suppress(AttributeError):
            utils.is_torch_distributed_available()
    finally:
        torch.distributed.is_available = real


def _put_in_place(name: str, kind: type[Deferred]) -> Deferred | None:
    """The package of this name, not run; None where it is loaded already, or not there."""
    if name in sys.modules or not (spec := find_spec(name)):
        return None
    package = module_from_spec(spec)
    package.__class__ = kind
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, package)
    return package if isinstance(package, Deferred) else None


def _load_alone(places: Sequence[str]) -> None:
    if (spec := PathFinder.find_spec(_ALONE, places)) is None or spec.loader is None:
        return
    sys.modules[_ALONE] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[_ALONE])
    except BaseException:
        del sys.modules[_ALONE]
        raise


class Deferred(ModuleType):
    """A package whose `__init__` has not run yet; its submodules are imported without it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self._load():
            raise AttributeError(f"module {self.__name__} is being loaded and has no {name} yet")
        return getattr(self, name)

    def _load(self) -> bool:
        """Run `__init__`; False where that is under way in this thread."""
        with _LOADING:
            if type(self) is ModuleType:
                return True
            if vars(self).get("_under_way"):
                return False
            vars(self)["_under_way"] = True
            try:
                assert self.__spec__
                assert self.__spec__.loader
                self.__spec__.loader.exec_module(self)
            finally:
                del vars(self)["_under_way"]
            self._loaded()
        return True

    def _loaded(self) -> None:
        self.__class__ = ModuleType  # type: ignore[assignment]


class DeferredCompiler(Deferred):
    """torch's compiler, which answers what is asked of it by libraries that are only being imported.

    As long as it has not run, nothing is compiled: marks for it can wait, and there is nothing to keep it away from.
    Its submodules count on its `__init__`, so that it runs before any of them is looked for.
    """

    def allow_in_graph(self, function: Any) -> Any:
        """Mark `function` as one that goes into a graph as it is, once there may be graphs."""
        if _waits(self):
            vars(self).setdefault("_marked", []).append(function)
            return function
        return self.allow_in_graph(function)

    def disable(self, fn: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
        """`fn` as it is until there is a compiler, and then as the compiler has it: as a decorator, or called."""
        if fn is None:
            return lambda fn: self.disable(fn, *args, **options)

        @functools.wraps(fn)
        def apart(*given: Any, **named: Any) -> Any:
            function = fn if _waits(self) else self.disable(fn, *args, **options)
            return function(*given, **named)

        vars(apart)["_torchdynamo_disable"] = True  # what the compiler goes by
        return apart

    def assume_constant_result(self, fn: Any) -> Any:
        """The same mark that the compiler would set."""
        fn._dynamo_marked_constant = True
        return fn

    def _loaded(self) -> None:
        marked = vars(self).pop("_marked", ())
        vars(self)["__path__"] = vars(self).pop("_places", self.__path__)
        super()._loaded()
        for function in marked:
            self.allow_in_graph(function)


def _waits(package: ModuleType) -> bool:
    """Whether its `__init__` has not run to its end."""
    return isinstance(package, Deferred)


class _Locations:
    """Where a package's submodules lie: whoever looks for one has its `__init__` run before."""

    def __init__(self, package: Deferred, places: Sequence[str]) -> None:
        self.package, self.places = package, places

    def __iter__(self) -> Iterator[str]:
        self.package._load()
        return iter(self.places)
