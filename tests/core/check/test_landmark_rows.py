"""Landmarks of a model beside those of others, in tables that fit a terminal."""

from __future__ import annotations

from kd_core.check.landmarks import LandmarkRow, landmarks_text


def test_a_table_that_is_too_wide_becomes_one_for_each_model() -> None:
    others = dict.fromkeys(("teacher_1", "teacher_2"), ("(2, 64, 8, 8)", "projector"))
    rows = [LandmarkRow("@features/0", "layers.0", "(2, 8, 8, 8)", others)]
    assert len(landmarks_text(rows, "student", 120).splitlines()) == 2
    narrow = landmarks_text(rows, "student", 80)
    assert [line.split()[3] for line in narrow.splitlines() if line.startswith("landmark")] == [
        "teacher_1",
        "teacher_2",
    ]
    assert max(map(len, narrow.splitlines())) <= 80
