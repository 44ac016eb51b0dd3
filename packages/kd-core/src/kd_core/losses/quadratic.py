"""A small quadratic programme, solved exactly and without waiting for the device."""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
from torch import Tensor

from kd_core.errors import KDError

FREE, ZERO, CAPPED = 0, 1, 2
MOST = 8
"""Variables of a programme: the number of its faces grows by up to three times with each."""
SLACK = 1e-9
"""By how much a solution may leave the range of its variables for rounding."""
RIDGE = 1e-12
"""What is added to the diagonal of a matrix of trace 1, so that of several minima the middle one is found."""


def capped_simplex_minimum(matrix: Tensor, cap: float) -> Tensor:
    """The x (K,) that minimises x' M x among those with 0 <= x <= ``cap`` that add up to 1, in float64.

    matrix (K, K) symmetric and positive semidefinite, K at most 8; a ``cap`` below 1 / K means 1 / K, one above 1
    means 1. It is exact: the minimum on the inside of each face of the range solves linear equations, and the best of
    those that lie in their face is the one. KDError for more variables.
    """
    number = len(matrix)
    if number > MOST:
        raise KDError(f"takes at most {MOST} teachers, not {number}", path="teacher")
    cap = min(max(cap, 1 / number), 1.0)
    dtype = torch.float32 if matrix.device.type == "mps" else torch.float64
    scaled = matrix.to(dtype)
    scaled = scaled / scaled.diagonal().sum().clamp(min=torch.finfo(dtype).tiny)
    scaled = scaled + RIDGE * torch.eye(number, dtype=dtype, device=matrix.device)
    faces = _faces(number, cap, str(matrix.device))
    points = _stationary(scaled, faces, cap)
    inside = ((points >= -SLACK) & (points <= cap + SLACK)).all(1)
    values = torch.einsum("fi,ij,fj->f", points, scaled, points).where(inside, torch.inf)
    best = points.index_select(0, values.argmin().reshape(1)).squeeze(0).clamp(0, cap)
    return best / best.sum()


@cache
def _faces(number: int, cap: float, device: str) -> Tensor:
    """(F, K): for each face of the range that has an inside with sum 1, what each variable is there. Kept."""
    found = []
    for face in product((FREE, ZERO, CAPPED), repeat=number):
        least, most = face.count(CAPPED) * cap, (face.count(CAPPED) + face.count(FREE)) * cap
        if FREE in face and least <= 1 + SLACK and most >= 1 - SLACK:
            found.append(face)
    return torch.tensor(found, device=device)


def _stationary(matrix: Tensor, faces: Tensor, cap: float) -> Tensor:
    """(F, K): where the form is stationary on each face's plane, by Lagrange's equations (F, K + 1, K + 1)."""
    count, number = faces.shape
    free = (faces == FREE)[:, :, None]
    one = torch.eye(number, dtype=matrix.dtype, device=matrix.device)
    system = matrix.new_zeros(count, number + 1, number + 1)
    system[:, :number, :number] = torch.where(free, matrix, one)
    system[:, :number, number:] = free.to(matrix.dtype)
    system[:, number, :number] = 1.0
    right = torch.cat([(faces == CAPPED).to(matrix.dtype) * cap, matrix.new_ones(count, 1)], dim=1)
    return torch.linalg.solve_ex(system, right[:, :, None]).result[:, :number, 0]
