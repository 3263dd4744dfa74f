from __future__ import annotations

import pytest

from shotstream_rt.errors import ConfigError
from shotstream_rt.film.playlist import Playlist
from shotstream_rt.film.shot_maker import take_seed
from shotstream_rt.film.shots import AtEnd, CaptionChange, ShotRequest


def ready(_: str) -> bool:
    return True


def not_ready(_: str) -> bool:
    return False


def playlist(at_end: AtEnd = "hold", *texts: str) -> Playlist:
    made = Playlist(trained_chunks=2, at_end=at_end)
    for text in texts:
        made.add(ShotRequest(text=text))
    return made


def advance(made: Playlist) -> str:
    """Play one chunk and return which shot it belongs to."""
    run = made.next_run(ready, now_ns=0)
    run.frames, run.next_chunk = run.frames + 1, run.next_chunk + 1
    return f"{run.request.text}{run.shot}.{run.next_chunk - 1}"


def test_queued_shots_each_run_their_trained_length() -> None:
    made = playlist("hold", "a", "b")
    played = []
    while made.has_work():
        played.append(advance(made))
    assert played == ["a0.0", "a0.1", "b1.0", "b1.1"]


def test_now_cuts_at_the_next_boundary_and_keeps_the_rest_queued() -> None:
    made = playlist("hold", "a", "b")
    played = [advance(made)]
    made.add(ShotRequest(text="c", now=True))
    while made.has_work():
        played.append(advance(made))
    assert played == ["a0.0", "c1.0", "c1.1", "b2.0", "b2.1"]


def test_newest_of_many_interruptions_wins_and_stays() -> None:
    made = playlist("hold", "a", "q")
    played = [advance(made)]
    superseded = []
    for text in "bcd":
        superseded += made.add(ShotRequest(text=text, now=True))
    assert [request.text for request in superseded] == ["b", "c"]
    while made.has_work():
        played.append(advance(made))
    assert played == ["a0.0", "d1.0", "d1.1", "q2.0", "q2.1"]


def test_shots_are_numbered_when_they_begin() -> None:
    made = playlist("hold", "a")
    advance(made)
    made.add(ShotRequest(text="q", global_caption="g."))
    made.add(ShotRequest(text="n", global_caption="g.", now=True))
    assert [(number, request.text) for number, request in made.upcoming()] == [(1, "n"), (2, "q")]
    captions = []
    while made.has_work():
        advance(made)
        assert made.run is not None
        captions.append(made.run.caption)
    assert captions == ["g.shot1:n", "g.shot1:n", "g.shot2:q", "g.shot2:q"]


def test_shot_has_the_length_it_was_asked_for() -> None:
    made = playlist("hold")
    made.add(ShotRequest(text="a", chunks=1))
    made.add(ShotRequest(text="b", chunks=3))
    played = []
    while made.has_work():
        played.append(advance(made))
    assert played == ["a0.0", "b1.0", "b1.1", "b1.2"]


def test_shot_that_failed_before_its_first_chunk_is_forgotten() -> None:
    made = playlist("hold", "a", "b")
    advance(made), advance(made)
    run = made.next_run(ready, now_ns=0)
    made.drop_run(run)
    made.add(ShotRequest(text="c"))
    assert advance(made) == "c1.0"


def test_now_waits_for_its_caption_while_the_shot_runs() -> None:
    made = playlist("hold", "a")
    advance(made)
    made.add(ShotRequest(text="c", now=True))
    assert made.will_go_on(not_ready)
    assert not made.will_go_on(ready)


def test_complete_shot_never_waits_longer_for_a_queued_one() -> None:
    made = playlist("extend", "a", "b")
    advance(made), advance(made)
    assert not made.will_go_on(not_ready)


def test_extend_goes_on_until_a_cut() -> None:
    made = playlist("extend", "a")
    played = [advance(made) for _ in range(5)]
    made.add(ShotRequest(text="b"))
    played += [advance(made) for _ in range(3)]
    assert played == ["a0.0", "a0.1", "a0.2", "a0.3", "a0.4", "b1.0", "b1.1", "b1.2"]


def test_loop_begins_the_same_caption_again() -> None:
    made = playlist("loop", "a")
    assert [advance(made) for _ in range(5)] == ["a0.0", "a0.1", "a1.0", "a1.1", "a2.0"]


def test_extended_shot_goes_on_as_a_new_one_where_positions_end() -> None:
    made = Playlist(trained_chunks=2, at_end="extend", longest_chunks=3)
    made.add(ShotRequest(text="a"))
    assert [advance(made) for _ in range(5)] == ["a0.0", "a0.1", "a0.2", "a1.0", "a1.1"]


def test_shot_begun_again_keeps_its_last_caption() -> None:
    made = Playlist(trained_chunks=1, at_end="loop")
    made.add(ShotRequest(text="a", prefix="all: ", prompts=(CaptionChange(9, "all: z"),), given=1))
    advance(made)
    assert made.run is not None
    made.run.change_caption("all: b")
    advance(made)
    request = made.run.request
    assert (request.prefix, request.text, made.run.caption) == ("all: ", "b", "all: b")
    assert (request.prompts, request.given) == ((), 0)


def test_retake_keeps_the_number_and_counts_takes() -> None:
    made = playlist("hold", "a", "b")
    advance(made)
    assert made.add(made.retake_request(None, requested_ns=0)) == []
    older = made.add(made.retake_request(0, requested_ns=0))
    assert [request.take for request in older] == [1], "the newest wins"
    takes = []
    while made.has_work():
        advance(made)
        assert made.run is not None
        takes.append((made.run.shot, made.run.request.take))
    assert takes == [(0, 2), (0, 2), (1, 0), (1, 0)]


@pytest.mark.parametrize("shot", [None, 1])
def test_retake_of_nothing_is_an_error(shot: int | None) -> None:
    with pytest.raises(ConfigError, match="none was begun"):
        playlist("hold", "a").retake_request(shot, requested_ns=0)


def test_retake_of_an_older_shot_is_an_error() -> None:
    made = playlist("hold", "a", "b")
    for _ in range(3):
        advance(made)
    with pytest.raises(ConfigError, match="the last one begun is shot 1"):
        made.retake_request(0, requested_ns=0)


def test_a_shot_made_again_ends_where_it_had_ended() -> None:
    made = Playlist(trained_chunks=2, at_end="extend")
    made.add(ShotRequest(text="a", frames=1))
    made.add(ShotRequest(text="b", frames=3))
    made.add(ShotRequest(text="c"))
    played = [advance(made) for _ in range(5)]
    assert played == ["a0.0", "b1.0", "b1.1", "b1.2", "c2.0"]


def test_take_seeds_differ_and_stay_in_range() -> None:
    seeds = {take_seed(seed, take) for seed in (0, 1, 2**63 - 1) for take in range(50)}
    assert len(seeds) == 150
    assert take_seed(7, 0) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
