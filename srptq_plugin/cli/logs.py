"""Where log lines and warnings go: stderr, above a progress bar."""

import logging
import sys
import warnings

from srptq_plugin.errors import printable

OURS = ("srptq_plugin", "srptq_adapters")
CHATTY = ("torchao", "torch.utils._pytree", "torch.export", "torch.fx", "torch.onnx", "PIL")
"""Log what no user of ours can act on, such as deprecations, and errors of damaged files before they raise them."""


class ToStderr(logging.Handler):
    """Writes to what stderr is at that moment, which a progress bar replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        print(self.format(record), file=sys.stderr)  # noqa: T201


class Format(logging.Formatter):
    """`srptq: warning: message`, as errors are printed."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; where it comes from, when that is not us."""
        where = "" if record.name.startswith(OURS) else f" {record.name}:"
        return f"srptq: {record.levelname.lower()}:{where} {printable(super().format(record))}"


def configure(*, verbose: bool) -> None:
    """Warnings of anyone's; with `verbose` what we do, and Python's warnings too."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, ToStderr)]:
        root.removeHandler(old)
    handler = ToStderr()
    handler.setFormatter(Format())
    root.addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else logging.CRITICAL)
    logging.captureWarnings(capture=verbose)
    if not verbose and not sys.warnoptions:
        warnings.simplefilter("ignore")
