"""Formats of optimizer states by their definitions, in NumPy."""

from __future__ import annotations

import numpy as np

from support import philox

BLOCK = 256
STREAMS = 6  # of an optimizer's array: its states start at the third


def dynamic_map(signed: bool) -> np.ndarray:
    """bitsandbytes' `create_dynamic_map`, in its float32 steps: 256 numbers, sorted by code."""
    values = [0.0, 1.0]
    for decade in range(7):
        count = 2**decade if signed else 2 ** (decade + 1)
        step = np.float32(np.float32(np.float32(1) - np.float32(0.1)) / np.float32(count))
        index = np.arange(count + 1, dtype=np.float32)
        from_start = np.float32(0.1) + step * index
        from_end = np.float32(1) - step * (np.float32(count) - index)
        boundaries = np.where(np.arange(count + 1) < (count + 1) // 2, from_start, from_end)
        means = (boundaries[:-1] + boundaries[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (decade - 6)) * means
        values += scaled.tolist()
        if signed:
            values += (-scaled).tolist()
    return np.sort(np.array(values, np.float32))


def exact_map(signed: bool) -> np.ndarray:
    """The same in float64."""
    values = [0.0, 1.0]
    for decade in range(7):
        count = 2**decade if signed else 2 ** (decade + 1)
        scaled = 10.0 ** (decade - 6) * (0.1 + 0.9 * (np.arange(count) + 0.5) / count)
        values += scaled.tolist()
        if signed:
            values += (-scaled).tolist()
    return np.sort(np.array(values))


def nearest_codes(x: np.ndarray, scale: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """The codes of flat `x`, and where another is as near up to 2^-16 of a step."""
    table = exact_map(signed)
    y = x.astype(np.float64) / np.repeat(scale.astype(np.float64), BLOCK)[: x.size]
    middles = (table[1:] + table[:-1]) / 2
    code = np.searchsorted(middles, y)
    upper = np.minimum(code, 254)
    lower = np.maximum(code - 1, 0)
    tolerance = 2.0**-16
    close = np.zeros(x.shape, bool)
    for edge in (upper, lower):
        step = table[edge + 1] - table[edge]
        close |= np.abs(y - middles[edge]) <= tolerance * step
    return code.astype(np.uint8), close


def largest_of_blocks(x: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-x.size // BLOCK) * BLOCK, x.dtype)
    padded[: x.size] = x
    return np.abs(padded).reshape(-1, BLOCK).max(axis=1)


def noise(seed: int, step: int, number: int, slot: int, size: int) -> np.ndarray:
    """The numbers of 16 bits that a state's elements are rounded with."""
    element = np.arange(size, dtype=np.uint64)
    block = element // np.uint64(64) * np.uint64(8) + element % np.uint64(32) // np.uint64(4)
    zero = np.zeros_like(block)
    words = np.stack(
        philox(
            seed,
            (
                block & np.uint64(0xFFFFFFFF),
                block >> np.uint64(32),
                zero + np.uint64(step),
                zero + np.uint64(number * STREAMS + 2 + slot),
            ),
        )
    )
    place = np.arange(size) % 64
    word = words[place // 32 * 2 + place % 4 // 2, np.arange(size)]
    return np.where(place % 2 == 1, word >> np.uint64(16), word & np.uint64(0xFFFF)).astype(
        np.uint32
    )


def round_at_random(x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Bits of bfloat16, of flat float32 `x`."""
    bits = x.view(np.uint32)
    sign, magnitude = bits & np.uint32(0x80000000), bits & np.uint32(0x7FFFFFFF)
    finite = (np.minimum(magnitude, np.uint32(0x7F7F0000)) + numbers) | sign
    quiet = np.where(magnitude > 0x7F800000, bits | np.uint32(0x400000), bits)
    return (np.where(magnitude < 0x7F800000, finite, quiet) >> np.uint32(16)).astype(np.uint16)


def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits of the bfloat16, and the low half, of float32 `x` without NaN."""
    bits = x.view(np.uint32)
    high = ((bits.astype(np.uint64) + 0x8000) >> np.uint64(16)).astype(np.uint16)
    return high, (bits & np.uint32(0xFFFF)).astype(np.uint16).view(np.int16)
