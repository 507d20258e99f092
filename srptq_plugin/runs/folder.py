"""Where a run is written: beside its place first, then moved there whole."""

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
    """A folder that is new, empty or an earlier run; of an earlier run only its own files are replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise ArgumentError("out", "is a file; give a folder", folder)
        complete(self.folder, SUMMARY)
        if self.folder.is_dir() and any(map(_is_kept, self.folder.iterdir())) and not self._old_files():
            raise ArgumentError(
                "out", "holds files that are no run; give a new or empty folder, or an earlier run", folder
            )
        for path in filter(Path.is_dir, self._old_files()):
            raise ArgumentError("out", f"{path.name} in it is a folder, where a run has a file; move it away", folder)

    @contextmanager
    def draft(self) -> Generator[Path]:
        """A folder to write in; on success its files replace those of an earlier run, all of them or none."""
        made = self._make()
        with locked(self.folder), _without_empty(made), writing(str(self.folder), self.folder):
            tidy(self.folder, SUMMARY)
            with TemporaryDirectory(dir=self.folder, prefix=DRAFT, ignore_cleanup_errors=True) as name:
                yield Path(name)
                commit(Path(name), self.folder, [path.name for path in self._old_files()], SUMMARY)

    def _make(self) -> list[Path]:
        """Make the folder; those that were not there, the innermost first."""
        try:
            absent = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                "out", f"cannot be made ({error.strerror}); give another folder", self.folder
            ) from error
        return absent

    def _old_files(self) -> list[Path]:
        """What an earlier run wrote, its summary first; nothing where there was none."""
        try:
            summary = json.loads((self.folder / SUMMARY).read_text())
            artifacts = [Path(name).name for name in summary["artifacts"]] if summary["schema"] == SCHEMA else []
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []
        names = [SUMMARY, RECIPE, NETWORK, PROGRAM, TABLE, TRAINED, *artifacts]
        return [self.folder / name for name in names if is_name(name)]


@contextmanager
def _without_empty(made: Sequence[Path]) -> Generator[None]:
    """Remove folders that were made for nothing."""
    try:
        yield
    finally:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _is_kept(path: Path) -> bool:
    """Whether a file is anybody's: a draft is what is left of a run that was killed."""
    return not path.name.startswith((DRAFT, COMMITTED))
