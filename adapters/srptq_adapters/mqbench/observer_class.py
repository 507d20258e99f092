"""The core's observers in MQBench's shape: subclasses of its `ObserverBase`, for any of its fake-quantizers."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from mqbench.observer import ObserverBase  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import RANGE, grid_of, make_room
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.protocols import ObserverFactory
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.utils.distributed import all_gather


class SRObserver(ObserverBase):  # pyright: ignore[reportUntypedBaseClass]
    """An observer of the core's: batches become bounds, bounds become scale and zero point by the core's projection.

    `min_val` and `max_val` are the bounds, as in MQBench's own, so whoever writes them (PACT does) is obeyed.
    Under torch.distributed every process has the bounds of what all of them saw.
    """

    factory: ClassVar[ObserverFactory]
    title: ClassVar[str]
    site = ""
    """Where it observes, for messages."""

    def __init__(  # noqa: PLR0917 - MQBench's signature
        self,
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        reduce_range: bool = False,  # noqa: FBT001, FBT002
        quant_min: int | None = None,
        quant_max: int | None = None,
        ch_axis: int = -1,
        pot_scale: bool = False,  # noqa: FBT001, FBT002
        factory_kwargs: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(dtype, qscheme, reduce_range, quant_min, quant_max, ch_axis, pot_scale, factory_kwargs)
        self.grid = grid_of(self)
        try:
            self.observer = self.factory(self.grid, **options)
        except (TypeError, SrptqError) as error:
            known = [
                name for name in inspect.signature(self.factory).parameters if name not in ("grid", "tensors_per_batch")
            ]
            raise SrptqError(f"observer {self.title}: {error}; options: {', '.join(known) or 'none'}") from error
        self.min_val, self.max_val = self.min_val.double(), self.max_val.double()

    def forward(self, values: Tensor) -> Tensor:
        """Take in a batch."""
        try:
            self.observer.update(values)
        except SrptqError as error:
            raise SrptqError(f"{self.site or 'observer ' + self.title}: {error}") from error
        self._set(self._everyone().bounds())
        return values

    def _everyone(self) -> Observer:
        observers = all_gather(self.observer)
        if len(observers) == 1:
            return self.observer
        first, *others = deepcopy(observers)
        for other in others:
            first.merge(other)
        return first

    def _set(self, bounds: Bounds) -> None:
        self.min_val, self.max_val = bounds.lower, bounds.upper

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the bounds as they stand."""
        found = project(Bounds.of(self.min_val, self.max_val), self.grid).detach()
        return found.scale.reshape(-1), found.integer_zero_point.reshape(-1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        make_room(self, RANGE, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def observer_class(name: str, factory: ObserverFactory) -> type[SRObserver]:
    """The class to register for one of the core's observers, or of a plugin's."""
    title = f"{name.upper() if name == 'dbdc' else name.title()}Observer"
    return type(title, (SRObserver,), {"factory": staticmethod(factory), "title": name})
