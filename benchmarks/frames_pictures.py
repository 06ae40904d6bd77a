"""The moving picture that `benchmarks/frames.py` sends: built once, before anything is measured."""

from __future__ import annotations

import numpy as np

OCTAVES = 7
ROUGHNESS = 0.78
"""How much of its weight each finer octave keeps: with this a JPEG of 512 x 512 has about 50 KB."""
STEP = 6
"""How far the picture moves from frame to frame, in pixels."""
COUNT = 16


def moving_pictures(width: int, height: int) -> list[np.ndarray]:
    """`COUNT` frames (height, width, 3), uint8, RGB: a view that glides over a textured plane.

    Coloured noise of all scales, which costs an encoder about what a photograph does; the same on each call.
    """
    margin = STEP * COUNT
    plane = _texture(width + margin, height + margin, np.random.default_rng(1))
    views = [plane[shift : shift + height, shift : shift + width] for shift in range(0, margin, STEP)]
    return [np.ascontiguousarray(view) for view in views]


def _texture(width: int, height: int, random: np.random.Generator) -> np.ndarray:
    plane = np.zeros((height, width, 3), np.float32)
    weight = 1.0
    for octave in range(OCTAVES):
        cell = 1 << (OCTAVES - octave)
        grid = random.random((height // cell + 2, width // cell + 2, 3), np.float32)
        plane += weight * _stretched(grid, width, height, cell)
        weight *= ROUGHNESS
    plane -= plane.min()
    plane *= 255 / plane.max()
    return plane.astype(np.uint8)


def _stretched(grid: np.ndarray, width: int, height: int, cell: int) -> np.ndarray:
    """The grid's values, one every `cell` pixels and in between by straight lines."""
    rows, columns = np.arange(height) / cell, np.arange(width) / cell
    top, left = rows.astype(int), columns.astype(int)
    down = (rows - top).astype(np.float32)[:, None, None]
    right = (columns - left).astype(np.float32)[None, :, None]
    lines = grid[top] * (1 - down) + grid[top + 1] * down
    stretched: np.ndarray = lines[:, left] * (1 - right) + lines[:, left + 1] * right
    return stretched
