"""Log lines and warnings on stderr, above a progress bar."""

import logging
import sys
import warnings

from srptq_plugin.cli.option_words import translate_hints
from srptq_plugin.errors import printable

OURS = ("srptq_plugin", "srptq_adapters")
SHOWN = ("srptq_plugin.models.loading", "srptq_plugin.accuracy.control")
"""Loggers that people want to read while they wait: what was understood of a network, and what each plan loses."""
CHATTY = ("torchao", "torch.utils._pytree", "torch.export", "torch.fx", "torch.onnx", "PIL")
"""Loggers that users cannot act on: deprecations, and details of damaged files that our own errors report."""


class ToStderr(logging.Handler):
    """A handler that looks up `sys.stderr` for each record, as a progress bar replaces the stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print(self.format(record), file=sys.stderr)  # noqa: T201


class Format(logging.Formatter):
    """A formatter that writes `srptq: warning: message`, as errors are printed."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record. Name the logger if it is not ours."""
        message = printable(super().format(record))
        if record.name.startswith(OURS):
            return f"srptq: {record.levelname.lower()}: {translate_hints(message)}"
        return f"srptq: {record.levelname.lower()}: {record.name}: {message}"


def configure(*, verbose: bool) -> None:
    """Show warnings of all loggers, and in a terminal what was understood of the network.

    With `verbose`, show our progress and Python's warnings as well.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, ToStderr)]:
        root.removeHandler(old)
    handler = ToStderr()
    handler.setFormatter(Format())
    root.addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    for name in SHOWN:
        logging.getLogger(name).setLevel(logging.INFO if sys.stderr.isatty() else logging.NOTSET)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else logging.CRITICAL)
    logging.captureWarnings(capture=verbose)
    if not verbose and not sys.warnoptions:
        warnings.simplefilter("ignore")
