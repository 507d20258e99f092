"""A training in its checkpoint: parameters, optimizers and the log of validations."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from srptq_plugin.qat.training import Training, Validation, validation_of
from srptq_plugin.utils.checkpoint import Checkpoint


def save_training(checkpoint: Checkpoint, training: Training, log: list[Validation]) -> None:
    """Write the state of a training."""
    checkpoint.save({**training.state(), "log": [asdict(record) for record in log]})


def restore_training(checkpoint: Checkpoint, training: Training) -> list[Validation]:
    """Set a training to the saved state. Return the validations until then."""

    def restore(state: Mapping[str, Any]) -> list[Validation]:
        log = [validation_of(record) for record in state["log"]]
        training.resume(state)
        _check_log(log, training.done)
        return log

    return checkpoint.restore(restore)


def _check_log(log: list[Validation], done: int) -> None:
    if [record.step for record in log][-1:] != [done]:
        raise ValueError(f"its log does not end at step {done}")
