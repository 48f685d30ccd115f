"""What a process that was killed leaves behind: files and folders under temporary names."""

from pathlib import Path

from evalkit.utils import files

DEAD = 99_999_999  # no system gives a process this number


def left_by_the_dead(final: Path) -> Path:
    """The temporary name under which a process of this machine that is gone was writing `final`."""
    with files.temporary_path(final) as temporary:
        host, _, _, token = temporary.name.rsplit("-", 4)[1:]
    return final.with_name(f".tmp-{final.name}-{host}-{DEAD}-1-{token}")
