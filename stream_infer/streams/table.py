"""A Faust table whose changes can be waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import faust


class DurableTable(faust.Table[bytes, Any]):
    """Remembers what it has sent to its changelog.

    Faust's producer has a `flush`, but that gives up on messages which take more than a tenth of a
    second, and does not see the one that is being handed over.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unconfirmed: list[Any] = []

    def send_changelog(self, *arguments: Any, **options: Any) -> Any:
        """Send a change to the changelog; Faust calls this for each."""
        sent = super().send_changelog(*arguments, **options)
        self._unconfirmed.append(sent)
        return sent

    async def confirm(self) -> None:
        """Return once the broker has every change.

        Raises:
            KafkaError: the broker refuses one.
        """
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        await asyncio.gather(*unconfirmed)
