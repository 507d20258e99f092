"""The core's observers as subclasses of MQBench's `ObserverBase`, which any of its fake-quantizers can use."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from mqbench.observer import ObserverBase  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import RANGE, make_room, read_grid
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.protocols import ObserverFactory
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.utils.distributed import all_gather


class SRObserver(ObserverBase):  # pyright: ignore[reportUntypedBaseClass]
    """An MQBench observer that turns batches into bounds by an observer of the core.

    The core's projection turns bounds into scale and zero point. As in MQBench's own observers `min_val` and `max_val`
    are the bounds, so values that others write there (PACT does) have effect. Under torch.distributed the bounds are
    equal in every process, and cover what all of them observed.
    """

    factory: ClassVar[ObserverFactory]
    title: ClassVar[str]
    site = ""
    """The path in the model, for messages."""

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
        self.grid = read_grid(self)
        try:
            self.observer = self.factory(self.grid, **options)
        except (TypeError, SrptqError) as error:
            raise SrptqError(f"observer {self.title}: {error}") from error
        # In float64, as the core has its bounds: rounded to float32, an end could move by a step of the grid.
        self.min_val, self.max_val = self.min_val.double(), self.max_val.double()

    def forward(self, values: Tensor) -> Tensor:
        """Observe a batch and return it unchanged."""
        try:
            self.observer.update(values)
        except SrptqError as error:
            raise SrptqError(f"{self.site or 'observer ' + self.title}: {error}") from error
        bounds = self._merged().bounds()
        self.min_val, self.max_val = bounds.lower, bounds.upper
        return values

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of the current bounds."""
        qparams = project(Bounds.of(self.min_val, self.max_val), self.grid).detach()
        return qparams.scale.reshape(-1), qparams.integer_zero_point.reshape(-1)

    def _merged(self) -> Observer:
        """Return an observer of all that every process observed."""
        observers = all_gather(self.observer)
        if len(observers) == 1:
            return self.observer
        # Copies: merged into itself, this process's observer would count the others' batches again at the next call.
        first, *others = deepcopy(observers)
        for other in others:
            first.merge(other)
        return first

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        make_room(self, RANGE, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def observer_class(name: str, factory: ObserverFactory) -> type[SRObserver]:
    """Return the class to register for an observer of the core or of a plugin."""
    title = f"{name.upper() if name == 'dbdc' else name.title()}Observer"
    return type(title, (SRObserver,), {"factory": staticmethod(factory), "title": name})
