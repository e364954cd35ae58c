"""The ChimeraX script beside maps: all of them, by relative names, at one level."""

from cryoatlas.analysis.chimerax import VIEW, write_view

RED, BLUE = (1.0, 0.0, 0.0), (0.1, 0.25, 0.999)


def script(folder, count: int, **options) -> list[str]:
    files = [f"vol_{number:06d}.mrc" for number in range(count)]
    colours = [RED, BLUE, RED][:count]
    write_view(folder, files, 0.123456789, colours, **options)
    return (folder / VIEW).read_text().splitlines()


def commands(lines: list[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith("#")]


def test_a_sequence_is_opened_in_order_at_one_level_with_a_slider(tmp_path):
    assert commands(script(tmp_path, 3)) == [
        "open vol_000000.mrc",
        "open vol_000001.mrc",
        "open vol_000002.mrc",
        "volume #1-3 style surface step 1 level 0.1235",
        "volume #1 color 100,0,0",
        "volume #2 color 10,25,100",
        "volume #3 color 100,0,0",
        "hide #2-3 models",
        "mseries slider #1-3 name volume",
        "view",
    ]


def test_one_map_needs_no_slider_and_hides_nothing(tmp_path):
    assert commands(script(tmp_path, 1)) == [
        "open vol_000000.mrc",
        "volume #1 style surface step 1 level 0.1235",
        "volume #1 color 100,0,0",
        "view",
    ]


def test_maps_that_are_no_sequence_get_no_slider(tmp_path):
    assert not any("slider" in line for line in commands(script(tmp_path, 2, slider=False)))


def test_the_script_says_how_to_run_it(tmp_path):
    assert any("chimerax view.cxc" in line for line in script(tmp_path, 2) if line.startswith("#"))
