"""What the headers of packets say of their pictures, without decoding them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def shows_picture(codec: str, packet: Any) -> bool:
    """False for a packet that only updates references: VP8's and (outside a superframe) VP9's alternate reference."""
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    if codec != "vp9":
        return True
    data = memoryview(packet)
    first, is_superframe = data[0], (data[-1] & 0xE0) == 0xC0
    if is_superframe:
        return True
    if first & 0x30 == 0x30:  # profile 3 has one more bit before the flags
        first <<= 1
    shows_existing, shows_this = bool(first & 0x08), bool(first & 0x02)
    return shows_existing or shows_this


class HevcLayers:
    """Reads the temporal sub-layer from the header of a packet's first slice (H.265, 7.3.1.2)."""

    def __init__(self, decoder: Any) -> None:
        extradata = decoder.extradata or b""
        # hvcC boxes begin with version 1 and say how long each unit's length field is; Annex B has start codes.
        self._length_bytes = (extradata[21] & 3) + 1 if len(extradata) > 22 and extradata[0] == 1 else 0

    def layer(self, packet: Any) -> int:
        """The temporal sub-layer, 0 the lowest; 0 where no slice is found."""
        data = memoryview(packet)
        for start in self._units(data):
            if start + 1 < len(data) and (data[start] >> 1) & 0x3F < 32:  # a slice
                return max(0, (data[start + 1] & 7) - 1)
        return 0

    def _units(self, data: memoryview) -> Iterator[int]:
        if not self._length_bytes:
            raw = bytes(data)
            position = raw.find(b"\0\0\1")
            while position >= 0:
                yield position + 3
                position = raw.find(b"\0\0\1", position + 3)
            return
        position = 0
        while position + self._length_bytes < len(data):
            size = int.from_bytes(data[position : position + self._length_bytes], "big")
            yield position + self._length_bytes
            position += self._length_bytes + size
