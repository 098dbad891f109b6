"""A layer whose contents are in a file until it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pikvpress.cache.choice import CodecChoice
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.saving.contents import LayerContents


class SavedLayer(PiKVLayer):
    """A layer that reads and verifies its contents when they are first needed, and is then like any other.

    Parameters
    ----------
    choice : pair of CodecChoice
        Codecs of keys and values, as in `CompressibleLayer`.
    window : int
        Number of most recent entries that stay exact.
    contents : LayerContents
        What the layer holds; still in the file.
    verify : callable
        Raises a ``ValueError`` if the file's contents have been altered.
    device : torch.device
        Device of the model's layer, to which the contents are moved when they are read.
    """

    def __init__(
        self,
        choice: tuple[CodecChoice, CodecChoice],
        window: int,
        contents: LayerContents,
        verify: Callable[[], None],
        device: torch.device,
    ):
        super().__init__(*choice, window)
        self.dtype, self.device, self.is_initialized = contents.entries.tail.keys.dtype, device, True
        self.__dict__ |= contents.attributes
        self.keeper = contents.keeper
        self._unread: tuple[LayerContents, Callable[[], None]] | None = (contents, verify)
        del self.entries  # so that `__getattr__` is asked for them

    def __getattr__(self, name: str) -> Any:
        """Read the contents of the file when the entries are first needed."""
        if name != "entries" or self.__dict__.get("_unread") is None:
            return super().__getattr__(name)
        self.read()
        return self.__dict__["entries"]

    def read(self) -> None:
        """Read the contents of the file now, if that has not been done.

        Raises
        ------
        ValueError
            If the file has been altered since it was written.
        """
        if self._unread is None:
            return
        contents, verify = self._unread
        verify()
        contents.check()
        contents = contents.to(self.device)
        self.__dict__ |= contents.attributes
        self.entries, self._unread = contents.entries, None

    def reset(self) -> None:
        """Clear everything except the settings."""
        super().reset()
        self._unread = None

    def get_seq_length(self) -> int:
        """Return the number of entries including removed ones, which masks and positions depend on."""
        return super().get_seq_length() if self._unread is None else self._unread[0].entries.length

    def to(self, device: torch.device | str) -> None:
        """Move everything to a device, when it is read if it has not been read yet."""
        if self._unread is None:
            super().to(device)
        else:
            self.device = torch.device(device)

    @property
    def nbytes(self) -> int:
        """All bytes held, as they will be after pending masks and codecs take effect."""
        return super().nbytes if self._unread is None else self._unread[0].nbytes

    def tier_bytes(self) -> dict[str, int]:
        """Return the bytes on each tier that holds some."""
        return super().tier_bytes() if self._unread is None else {"file": self.nbytes}
