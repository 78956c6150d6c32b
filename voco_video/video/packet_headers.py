"""What the headers of packets say of their pictures, without decoding them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# A picture of MPEG-4 that only says "as before" is never longer. (Real pictures can be as short.)
_MAX_EMPTY_BYTES = 19
# Of a slice, enough to hold everything that is read here.
_SLICE_HEADER_BYTES = 32
_IDR_SLICE, _SLICE, _SPS, _PPS = 5, 1, 7, 8
_PROFILES_WITH_CHROMA_FORMAT = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


class PictureHeaders:
    """Tells which packets of a stream show no picture of their own.

    may_show_nothing:   some packet so far looks as if it showed nothing, and only decoding can tell
    has_second_fields:  some packet so far held only the second field of a frame
    """

    def __init__(self, decoder: Any) -> None:
        self.may_show_nothing = False
        self.has_second_fields = False
        self._codec = decoder.codec.canonical_name
        self._fields = H264Fields(decoder) if self._codec == "h264" else None

    def shows_picture(self, packet: Any) -> bool:
        """False for a packet that only updates references, or is the second field of the packet before it."""
        if self._codec == "vp8":
            return bool(memoryview(packet)[0] & 0x10)
        if self._codec == "vp9":
            return any(_vp9_flags(memoryview(packet)))
        if self._codec == "mpeg4" and packet.size <= _MAX_EMPTY_BYTES:
            self.may_show_nothing = True
        is_second = self._fields is not None and self._fields.is_second(packet)
        self.has_second_fields |= is_second
        return not is_second


def vp9_may_show_again(packet: Any) -> bool:
    """Whether a packet of VP9 may show a picture that came in an earlier packet."""
    is_superframe, shows_existing, _ = _vp9_flags(memoryview(packet))
    return is_superframe or shows_existing


def _vp9_flags(data: memoryview) -> tuple[bool, bool, bool]:
    """Whether a packet holds several frames; and of its first, whether it shows an earlier one, or itself."""
    first, is_superframe = data[0], (data[-1] & 0xE0) == 0xC0
    if first & 0x30 == 0x30:  # profile 3 has one more bit before the flags
        first <<= 1
    return is_superframe, bool(first & 0x08), bool(first & 0x02)


class NalUnits:
    """Splits packets of H.264 and H.265 into their units, whichever way the container delimits them."""

    def __init__(self, decoder: Any) -> None:
        self._extradata = bytes(decoder.extradata or b"")
        # avcC and hvcC boxes begin with version 1 and say how long a unit's length field is; Annex B has start codes.
        self._length_bytes = 0
        if len(self._extradata) > 6 and self._extradata[0] == 1:
            place = 4 if decoder.codec.canonical_name == "h264" else 21
            self._length_bytes = (self._extradata[place] & 3) + 1 if len(self._extradata) > place else 0

    def of_extradata(self) -> Iterator[memoryview]:
        """The parameter sets that the container holds (H.264)."""
        data = memoryview(self._extradata)
        if not self._length_bytes:
            yield from _after_start_codes(data)
            return
        position = 5
        for mask in (0x1F, 0xFF):  # so many sequence parameter sets, then so many picture parameter sets
            if position >= len(data):
                return
            count, position = data[position] & mask, position + 1
            for _ in range(count):
                size = int.from_bytes(data[position : position + 2], "big")
                yield data[position + 2 : position + 2 + size]
                position += 2 + size

    def of_packet(self, packet: Any) -> Iterator[memoryview]:
        """Each unit of a packet, from its header on; some may be empty."""
        data = memoryview(packet)
        if not self._length_bytes:
            yield from _after_start_codes(data)
            return
        position = 0
        while position + self._length_bytes < len(data):
            size = int.from_bytes(data[position : position + self._length_bytes], "big")
            position += self._length_bytes
            yield data[position : position + size]
            position += size


def _after_start_codes(data: memoryview) -> Iterator[memoryview]:
    raw = bytes(data)
    position = raw.find(b"\0\0\1")
    while position >= 0:
        position += 3
        following = raw.find(b"\0\0\1", position)
        yield data[position : following if following >= 0 else len(data)]
        position = following


class HevcLayers:
    """Reads the temporal sub-layer from the header of a packet's first slice (H.265, 7.3.1.2)."""

    def __init__(self, decoder: Any) -> None:
        self._units = NalUnits(decoder)

    def layer(self, packet: Any) -> int:
        """The temporal sub-layer, 0 the lowest; 0 where no slice is found."""
        for unit in self._units.of_packet(packet):
            if len(unit) > 1 and (unit[0] >> 1) & 0x3F < 32:  # a slice
                return max(0, (unit[1] & 7) - 1)
        return 0


class H264Fields:
    """Finds packets that hold only the second field of a frame whose first field came before (H.264, 7.3.3)."""

    def __init__(self, decoder: Any) -> None:
        self._units = NalUnits(decoder)
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of_pps: dict[int, int] = {}
        self._first: tuple[int, bool] | None = None  # frame number and parity of a field that waits for its second
        for unit in self._units.of_extradata():
            self._learn(unit)
        self._knows_sequence = bool(self._sequences)

    def is_second(self, packet: Any) -> bool:
        """Whether this packet, the next in the file, adds to the picture of the packet before it."""
        if self._knows_sequence and not any(sequence.has_fields for sequence in self._sequences.values()):
            return False
        fields = set()
        for unit in self._units.of_packet(packet):
            self._learn(unit)
            if len(unit) > 1 and unit[0] & 0x1F in (_SLICE, _IDR_SLICE):
                fields.add(self._field(unit))
        self._knows_sequence = bool(self._sequences)
        first, self._first = self._first, None
        if len(fields) != 1 or None in fields:  # a whole frame, both of its fields, or nothing known
            return False
        (field,) = fields
        assert field is not None
        if first is not None and first == (field[0], not field[1]):
            return True
        self._first = field
        return False

    def _learn(self, unit: memoryview) -> None:
        kind = unit[0] & 0x1F if len(unit) else 0
        try:
            if kind == _SPS:
                number, sequence = _read_sequence(_Bits(unit[1:]))
                self._sequences[number] = sequence
            elif kind == _PPS:
                bits = _Bits(unit[1:_SLICE_HEADER_BYTES])
                self._sequence_of_pps[bits.ue()] = bits.ue()
        except IndexError:
            pass  # damaged

    def _field(self, unit: memoryview) -> tuple[int, bool] | None:
        """(frame number, whether it is the bottom field) of a slice of a field; None for a slice of a frame."""
        bits = _Bits(unit[1:_SLICE_HEADER_BYTES])
        try:
            bits.ue()  # first macroblock
            bits.ue()  # type of slice
            sequence = self._sequences[self._sequence_of_pps[bits.ue()]]
            bits.u(2 * sequence.has_colour_planes)
            frame_number = bits.u(sequence.frame_number_bits)
            is_field = sequence.has_fields and bits.u(1)
            return (frame_number, bool(bits.u(1))) if is_field else None
        except (IndexError, KeyError):
            return None


class _Sequence:
    """Of a sequence parameter set, what it takes to read a slice's header."""

    def __init__(self, *, frame_number_bits: int, has_fields: bool, has_colour_planes: bool) -> None:
        self.frame_number_bits = frame_number_bits
        self.has_fields = has_fields
        self.has_colour_planes = has_colour_planes


def _read_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """(number, contents) of a sequence parameter set (H.264, 7.3.2.1.1)."""
    profile = bits.u(8)
    bits.u(16)  # constraints, level
    number, has_colour_planes = bits.ue(), False
    if profile in _PROFILES_WITH_CHROMA_FORMAT:
        chroma_format = bits.ue()
        has_colour_planes = chroma_format == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)  # bit depths, lossless
        if bits.u(1):
            for matrix in range(12 if chroma_format == 3 else 8):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if matrix < 6 else 64)
    frame_number_bits = bits.ue() + 4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.u(1), bits.ue(), bits.ue()
        for _ in range(bits.ue()):
            bits.ue()
    bits.ue(), bits.u(1), bits.ue(), bits.ue()  # reference frames, gaps, width, height
    return number, _Sequence(
        frame_number_bits=frame_number_bits, has_fields=not bits.u(1), has_colour_planes=has_colour_planes
    )


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    following = last = 8
    for _ in range(size):
        if following:
            code = bits.ue()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


class _Bits:
    """Reads bits of a unit whose escape bytes are taken out; raises IndexError at its end."""

    def __init__(self, data: memoryview) -> None:
        self._data = bytes(data).replace(b"\0\0\3", b"\0\0")
        self._position = 0

    def u(self, num_bits: int) -> int:
        """An unsigned number of so many bits."""
        value = 0
        for _ in range(num_bits):
            value = value << 1 | self._data[self._position >> 3] >> (7 - (self._position & 7)) & 1
            self._position += 1
        return value

    def ue(self) -> int:
        """An unsigned Exp-Golomb code (H.264, 9.1); one that is signed is as long."""
        num_zeros = 0
        while not self.u(1):
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.u(num_zeros)
