"""Things that register themselves by name, here or in packages of others."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

Registered = TypeVar("Registered")


class Registry(Generic[Registered]):
    """What a decorator registered under a name.

    A package of others declares an entry point of the registry's group for each module that
    registers something; such modules are imported once a name is asked for that is not known here,
    or all names are.
    """

    def __init__(self, group: str) -> None:
        """An empty registry.

        Args:
            group: Entry points group, such as `dsdm.formats`.
        """
        self.group = group
        self._found: dict[str, Registered] = {}
        self._has_loaded = False

    def add(self, name: str, registered: Registered) -> None:
        """Registers under a name; the same name again replaces what was there."""
        self._found[name] = registered

    def get(self, name: str) -> Registered | None:
        """What is registered under a name; None where nothing is."""
        if name not in self._found:
            self._load()
        return self._found.get(name)

    def __getitem__(self, name: str) -> Registered:
        """What is registered under a name.

        Raises:
            KeyError: nothing is.
        """
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """All names, in the order in which they were registered."""
        self._load()
        return iter(list(self._found))

    def _load(self) -> None:
        if not self._has_loaded:
            self._has_loaded = True
            for entry in entry_points(group=self.group):
                entry.load()
