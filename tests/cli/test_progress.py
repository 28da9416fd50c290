"""How far a run is, off a terminal."""

import logging

import pytest

from stylematte_cli.commands import progress


@pytest.mark.parametrize(("done", "said"), [(0, "0 of 6 images so far"), (2, "2 of 6 images, ")])
def test_a_line_before_anything_was_kept(caplog, monkeypatch, done, said):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    log = logging.getLogger("stylematte")
    monkeypatch.setattr(log, "propagate", True)

    def drawing():
        yield done, 6
        return "finished"

    with caplog.at_level(logging.INFO, "stylematte"):
        assert progress.with_frame_progress(drawing(), "filter", quiet=False, unit="image") == "finished"
    assert said in caplog.text
