"""What the rest of a study asks of leases, whatever they are made of: files of a folder, or objects."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from tailkeep.study.lease import Holder


class Held(Protocol):
    """A lease that this process holds: a context that is left by giving it back."""

    holder: Holder

    @property
    def token(self) -> str:
        """The word that tells this lease from every other."""
        ...

    def mine(self) -> bool:
        """Whether the lease is still this process's: one that was long silent may have been passed over."""
        ...

    def touch(self) -> None:
        """Show that the holder lives."""
        ...

    def release(self) -> None:
        """Give the lease back."""
        ...

    def __enter__(self) -> Held: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Leases(Protocol):
    """The leases of one store, by name. ``poll`` is how often to ask for one that is waited for, in seconds."""

    poll: float

    def take(self, name: str, what: str = "") -> Held | None:
        """Take a lease, a dead holder's too; None where a living process holds it."""
        ...

    def busy(self, name: str) -> Holder | None:
        """Return the living holder; None where the lease is free."""
        ...

    def read(self, name: str) -> Holder | None:
        """Return who a lease names, dead or alive; None where there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names of all leases, sorted."""
        ...

    def tidy(self) -> None:
        """Put away what dead processes left."""
        ...
