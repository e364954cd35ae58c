"""The tables of docs/results.md are those of the JSON files that the benchmark writes."""

import pytest
from benchmarks.paper.jobs import SIZES, jobs
from benchmarks.paper.page import PAGE, RESULTS, filled


@pytest.mark.parametrize("size", SIZES)
def test_the_tables_are_those_of_the_json_file(size):
    if not (RESULTS / "paper" / f"{size}.json").exists():
        assert f"<!-- {size}," not in PAGE.read_text(encoding="utf-8")
        return
    page = PAGE.read_text(encoding="utf-8")
    assert f"<!-- {size}, table 1: begin -->" in page
    assert filled(page, size) == page


@pytest.mark.parametrize("size", SIZES)
def test_no_two_lines_share_a_run_unless_they_are_the_same(size):
    by_name = {}
    for job in jobs(size, seeds=(0, 1)):
        same = by_name.setdefault(job.name, (job.data, job.method, job.seed))
        assert same == (job.data, job.method, job.seed)
