"""Several processes of one command, as `torchrun` starts them: one screen, one answer, and one message if they fail."""

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any, NoReturn, Protocol

PATIENCE = timedelta(days=7)
"""How long a process waits for the others. The first works alone for a while, and a lost one is noticed at once."""
FAILED = "srptq/failed"
"""The key under which processes count their failures."""


class Store(Protocol):
    """The counters that all processes share."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter, and return its value."""
        ...


class Terminated(KeyboardInterrupt):
    """The launcher ended this process, as it does when another one has failed."""


class ProcessGroup:
    """The processes that `torchrun` started for a command, or this process alone."""

    def __init__(self) -> None:
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        self.rank = int(os.environ["RANK"]) if launched else 0
        self.size = int(os.environ["WORLD_SIZE"]) if launched else 1
        self._store: Store | None = None
        if self.rank:
            # Only the first process has a screen. A message of another one goes to what was its stderr.
            self._stderr = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)

    @contextmanager
    def joined(self) -> Generator[None]:
        """Let the processes work together within `with`."""
        if self.size == 1:
            yield
            return
        signal.signal(signal.SIGTERM, partial(_terminate, os.getpid()))
        import torch  # noqa: PLC0415 - `srptq --help` answers without it
        import torch.distributed as dist  # noqa: PLC0415

        self._store = _join(torch, dist)
        yield
        dist.barrier()
        dist.destroy_process_group()

    def speaks(self) -> bool:
        """Tell whether the failure of this process is the first of all. The others fail in its wake."""
        if self._store is None:
            return self.rank == 0
        try:
            first = self._store.add(FAILED, 1) == 1
        except RuntimeError:  # the process that kept the store has gone without a word
            first = True
        if first and self.rank:
            os.dup2(self._stderr, 2)
        return first


def _join(torch: Any, dist: Any) -> Store:
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local, neighbors = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus:
        torch.cuda.set_device(local % gpus)
    store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
    # NCCL wants a GPU for each process. Tensors on the CPU, and objects, always go by gloo.
    backend = "cpu:gloo,cuda:nccl" if gpus >= neighbors else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return dist.PrefixStore("srptq", store)


def _terminate(process: int, number: int, _frame: FrameType | None) -> NoReturn:
    if os.getpid() != process:  # a child that a library forked inherits the handler
        os._exit(128 + number)
    raise Terminated
