"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from os import PathLike
from pathlib import Path

from thalweg.foundation import InvalidInputError

__all__ = ["write_text_atomically"]


def write_text_atomically(path: str | PathLike[str], text: str) -> None:
    """Write UTF-8 text to a file, so that a reader finds the old content or the new, never a part.

    The text goes to a temporary file in the same folder, which then takes the name. A link is followed; a file that was
    there keeps its permissions. What is not a regular file (``/dev/stdout``, a pipe) is written to directly.

    Args:
        path: where to; the folder must exist.
        text: the whole content.

    Raises:
        InvalidInputError: if it cannot be written, naming the path and what to do. Nothing is left behind then.
    """
    target = Path(path).expanduser()
    try:
        target = target.resolve()
        if target.is_dir():
            raise InvalidInputError(f"cannot write {target}: it is a folder; give the name of a file in it")
        if not target.parent.is_dir():
            folder = target.parent
            raise InvalidInputError(
                f"cannot write {target}: the folder {folder} does not exist; make it first: mkdir -p '{folder}'"
            )
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
        else:
            _replace(target, text)
    except (OSError, RuntimeError) as error:  # RuntimeError: a home folder that is not known, a loop of links
        raise InvalidInputError(f"cannot write {target}: {_reason(error)}") from error


def _replace(target: Path, text: str) -> None:
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    """The process's mask for new files; the system only tells it while setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _reason(error: Exception) -> str:
    import errno

    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{os.strerror(number or 0).lower()}; free some space or choose a file on another disk"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(number or 0).lower()}; choose a folder you may write to"
    return str(error)
