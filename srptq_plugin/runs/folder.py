"""The folder that a run is written to: first a draft within it, then all files moved in at once."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from srptq_plugin.errors import ArgumentError
from srptq_plugin.runs.atomic_folder import COMMITTED, DRAFT, commit, complete, locked, tidy, writing
from srptq_plugin.runs.run import NETWORK, PROGRAM, RECIPE, SUMMARY, TABLE, TRAINED
from srptq_plugin.runs.run_record import SCHEMA, is_name


class RunFolder:
    """A folder that is new, empty or an earlier run. Of an earlier run only its own files are replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise ArgumentError("out", "is a file; give a folder", folder)
        complete(self.folder, SUMMARY)
        if self.folder.is_dir() and any(map(_is_foreign, self.folder.iterdir())) and not self._old_files():
            raise ArgumentError(
                "out", "holds files that belong to no run; give a new or empty folder, or an earlier run", folder
            )
        for path in filter(Path.is_dir, self._old_files()):
            raise ArgumentError("out", f"{path.name} in it is a folder, where a run has a file; move it away", folder)

    @contextmanager
    def draft(self) -> Generator[Path]:
        """Yield a folder to write in. On success its files replace the files of an earlier run, all or none."""
        absent = self._make()
        with locked(self.folder), _removed_if_empty(absent), writing(str(self.folder), self.folder):
            tidy(self.folder, SUMMARY)
            with TemporaryDirectory(dir=self.folder, prefix=DRAFT, ignore_cleanup_errors=True) as name:
                yield Path(name)
                commit(Path(name), self.folder, [path.name for path in self._old_files()], SUMMARY)

    def _make(self) -> list[Path]:
        """Make the folder. Return the folders that did not exist before, the innermost first."""
        try:
            absent = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                "out", f"cannot be made ({error.strerror}); give another folder", self.folder
            ) from error
        return absent

    def _old_files(self) -> list[Path]:
        """Return the paths that an earlier run may have written, its summary first, or none if there was no run."""
        try:
            summary = json.loads((self.folder / SUMMARY).read_text())
            artifacts = [Path(name).name for name in summary["artifacts"]] if summary["schema"] == SCHEMA else []
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []
        names = [SUMMARY, RECIPE, NETWORK, PROGRAM, TABLE, TRAINED, *artifacts]
        return [self.folder / name for name in names if is_name(name)]


@contextmanager
def _removed_if_empty(folders: Sequence[Path]) -> Generator[None]:
    try:
        yield
    finally:
        for folder in folders:
            if not any(folder.iterdir()):
                folder.rmdir()


def _is_foreign(path: Path) -> bool:
    # Drafts and commits are ours: a run that was killed left them.
    return not path.name.startswith((DRAFT, COMMITTED))
