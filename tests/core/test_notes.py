"""Notes are told by their level, not by their text."""

from __future__ import annotations

from kd_core.notes import Note


def test_a_note_says_its_place_and_its_level() -> None:
    note, warning = Note("read so"), Note.warning("3 texts are empty")
    assert (str(note), str(warning)) == ("read so", "warning: 3 texts are empty")
    assert str(warning.at("train")) == "warning: train: 3 texts are empty"
    assert (note.is_warning, warning.at("train").is_warning) == (False, True)
    assert not Note("warning: these words are in the name of a file").is_warning
