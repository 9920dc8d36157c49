# SPDX-License-Identifier: Apache-2.0
"""A dictionary that forgets what was used least recently, so that a reader's memory stays flat."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class LRU:
    """Keeps values of a bounded total size; the newest always stays.

    Args:
        budget: Largest total size.
        size: Size of a value; by default each counts one.
        close: Called with each value that is dropped.
    """

    def __init__(
        self,
        budget: float,
        size: Callable[[Any], float] = lambda value: 1,
        close: Callable[[Any], None] | None = None,
    ):
        self.budget, self.size, self.close = budget, size, close
        self.total = 0.0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key`, made if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self.total += self.size(value)
        while self.total > self.budget and len(self._values) > 1:
            self.drop(next(iter(self._values)))
        return value

    def drop(self, key: Hashable) -> None:
        """Forget `key`, if it is there."""
        if key in self._values:
            value = self._values.pop(key)
            self.total -= self.size(value)
            if self.close is not None:
                self.close(value)

    def __getstate__(self):
        # Contents (open files, decoded frames) do not travel to worker processes.
        raise TypeError("An LRU is not pickled; its owner makes a new one.")
