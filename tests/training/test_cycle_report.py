"""The report of a cycle is a page: what it tells of stands in it as it is."""

from training.cycle import write_report


def test_names_of_files_are_no_markup(tmp_path):
    name = "a|b <img src=x onerror=alert(1)>\n| c & d"
    results = {"gan": {"weights": name, "pictures": 3, "share": 0.123456, "seconds": 1.5}}
    write_report(tmp_path, {}, results, {"before": {"iou": 0.5}})
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| gan |")]
    assert row.count("|") == 4
    assert "<" not in page
    assert "a&#124;b &lt;img src=x onerror=alert(1)&gt; &#124; c &amp; d" in row
    assert "pictures 3, share 0.1235" in row
