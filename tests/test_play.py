# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf play`, without its page: what each control computes, and what it refuses."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import lawm_hf
from lawm_hf.arguments import parse_args
from lawm_hf.commands.play import PlayArgs
from lawm_hf.play.film import film, films
from lawm_hf.play.record import read_record
from lawm_hf.play.run import Run, open_run, open_runs
from lawm_hf.play.space import needed, write_space
from lawm_hf.play.upload import MAX_BYTES, MAX_SECONDS, read_upload

pytest.importorskip("mujoco")

from lawm_hf.envs.tabletop import SUITES
from lawm_hf.play.camera import in_picture, on_table
from lawm_hf.play.game import KEYS, Driver, Game
from lawm_hf.play.studio import Studio


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(open_run(lawm_hf.TABLETOP), num_clips=12)


@pytest.fixture(scope="module")
def driver() -> Driver:
    return Driver(open_run(lawm_hf.TABLETOP_POLICY))


# ------------------------------------------------------------------------------ imagination


def test_a_slider_moves_the_latents_along_its_direction_alone_and_the_picture_with_them(studio):
    scene, latents = studio.scenes[0], studio.latents[0]
    before = np.array(studio.places(latents))
    change = np.array([0.2, 0, 0, 0])
    moved = studio.moved(latents, change)
    assert np.abs(studio.places(moved) - before - change).max() < 0.02
    assert np.array_equal(studio.moved(latents, np.zeros(4)), latents)
    drawn = studio.imagine(scene, studio.moved(latents, np.array([2.0, 0, 0, 0])))
    same = studio.imagine(scene, latents)
    assert (drawn[0] == same[0]).all()
    assert np.abs(drawn[-1].astype(int) - same[-1]).max() > 40


def test_latents_never_leave_the_range_of_a_policy(studio):
    assert np.abs(studio.moved(studio.latents[0], np.full(4, 50.0))).max() <= 1


def test_the_same_latents_start_from_any_frame(studio):
    here, there = studio.scenes[0], studio.scenes[1]
    drawn = studio.imagine(there, studio.latents[0])
    assert (drawn[0] == studio.imagine(there, studio.latents[1])[0]).all()
    assert (drawn[0] != studio.imagine(here, studio.latents[0])[0]).any()


def test_another_instruction_gives_other_latents_and_none_is_refused(studio):
    scene = studio.scenes[0]
    other = next(task for task in studio.tasks if task != scene.task)
    assert np.abs(studio.latents_of(scene, other) - studio.latents[0]).mean() > 0.05
    for words in ("", "  ", "x" * 301):
        with pytest.raises(ValueError, match="1 to 300 characters"):
            studio.latents_of(scene, words)


def test_the_nearest_clips_are_others_and_the_nearest_comes_first(studio):
    found = studio.nearest(studio.latents[3], 4)
    assert studio.scenes[3].name not in {scene.name for scene, _ in found}
    cosines = [cosine for _, cosine in found]
    assert cosines == sorted(cosines, reverse=True)
    assert found[0][0].task == studio.scenes[3].task


def test_two_clips_of_a_folder_are_enough_and_none_is_told(tmp_path):
    run = open_run(lawm_hf.TABLETOP)
    for name in ("one.mp4", "two.mp4"):
        write_ramp(tmp_path / name, frames=12 if name == "one.mp4" else 20)
    few = Studio(run, source=f"folder:{tmp_path}")
    assert few.tasks == ["one", "two"]
    change = np.ones(len(few.directions.vectors))
    assert few.imagine(few.scenes[0], few.moved(few.latents[0], change)).shape[0] == 11
    assert [scene.task for scene, _ in few.nearest(few.latents[0])] == ["two"]
    (tmp_path / "two.mp4").unlink()
    assert Studio(run, source=f"folder:{tmp_path}").nearest(few.latents[0]) == []
    write_ramp(tmp_path / "one.mp4", frames=1)
    with pytest.raises((ValueError, RuntimeError)):
        Studio(run, source=f"folder:{tmp_path}")


def test_the_clips_of_the_tabletop_are_none_of_its_training(studio):
    trained = open_run(lawm_hf.TABLETOP).arguments()["sources"]
    assert "seed" not in trained[0]  # the default, 100000
    assert len(studio.scenes) == 12
    assert studio.interval == pytest.approx(0.1)


# ------------------------------------------------------------------------------ uploads


def write_ramp(path, frames=30, rate=10, size=64):
    """A video that grows brighter, 8 of 255 a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = size
        for k in range(frames):
            picture = np.full((size, size, 3), min(8 * k, 248), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def brightness(scene) -> list[int]:
    return scene.frames.mean((1, 2, 3)).round().astype(int).tolist()


@pytest.mark.parametrize(("rate", "step"), [(10, 8), (30, 24), (5, 8)])
def test_an_uploads_frames_are_as_far_apart_as_those_of_training(studio, tmp_path, rate, step):
    path = write_ramp(tmp_path / "ramp.mp4", rate=rate)
    scene = read_upload(studio, path, "go to the red cube")
    assert scene.frames.shape == studio.scenes[0].frames.shape
    seen = brightness(scene)
    steps = np.diff(seen)[: min(9, 29 * 8 // step)]
    assert np.abs(steps - step).max() <= 6, seen  # one frame is 8; the codec is lossy
    assert studio.imagine(scene, studio.latents_of(scene, scene.task)).shape[0] == 11


def test_a_window_may_begin_later_and_never_past_the_end(studio, tmp_path):
    path = write_ramp(tmp_path / "ramp.mp4")
    assert abs(brightness(read_upload(studio, path, "go", start_s=1.0))[0] - 80) <= 3
    assert brightness(read_upload(studio, path, "go", start_s=1e6))[0] > 200


def test_what_is_no_video_is_refused_in_one_sentence(studio, tmp_path):
    good = write_ramp(tmp_path / "good.mp4").read_bytes()
    huge = tmp_path / "huge.mp4"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    files = {
        "noise.mp4": np.random.default_rng(0).bytes(5000),
        "cut.mp4": good[: len(good) // 2],
        "empty.mp4": b"",
        "words.txt": b"hello\n" * 100,
        "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "<b>*bold*</b>.mp4": b"x",
    }
    refused = [huge, tmp_path / "missing.mp4", tmp_path]
    for name, content in files.items():
        path = tmp_path / name.replace("/", "_")
        path.write_bytes(content)
        refused.append(path)
    refused.append(write_ramp(tmp_path / "long.mp4", int(MAX_SECONDS) + 20, rate=1, size=16))
    refused.append(write_ramp(tmp_path / "single.mp4", frames=1))
    for path in refused:
        with pytest.raises(ValueError) as error:  # noqa: PT011  (what all have in common)
            read_upload(studio, path, "go to the red cube")
        said = str(error.value)
        assert said.endswith((".", ":")), said
        assert "\n" not in said
        assert "Traceback" not in said
        assert len(said) < 320, said
        assert re.search("choose|cut", said), said
    with pytest.raises(ValueError, match="Say in 1 to 300"):
        read_upload(studio, tmp_path / "good.mp4", " ")


@pytest.mark.parametrize("seed", range(40))
def test_a_video_with_damage_is_read_or_refused_in_one_sentence(studio, tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(write_ramp(tmp_path / "good.mp4").read_bytes())
    for _ in range(int(rng.integers(1, 30))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    path = tmp_path / "spoilt.mp4"
    path.write_bytes(bytes(data[: int(rng.integers(len(data) // 2, len(data)))]))
    said = ""
    try:
        assert read_upload(studio, path, "go").frames.shape == studio.scenes[0].frames.shape
    except ValueError as error:
        said = str(error)
    assert not said or said.startswith("spoilt.mp4 cannot be used (")
    assert "\n" not in said
    assert str(tmp_path) not in said


# ------------------------------------------------------------------------------ the game


def test_a_point_of_the_picture_is_a_place_on_the_table_and_back(driver):
    world = Game(driver).world
    for x, y in ((0.5, 0.5), (0.2, 0.8), (0.9, 0.6)):
        place = on_table(world, x, y)
        assert np.allclose(in_picture(world, np.array([[*place, 0.0]])), [[x, y]])
    assert np.abs(place).max() < 0.5


def test_who_clicks_the_named_cube_solves_the_scene_and_who_clicks_another_does_not(driver):
    game = Game(driver, seed=3)
    cube = game.world.target_cube
    for _ in game.click(*in_picture(game.world, cube[None])[0]):
        pass
    for _ in range(3):
        if game.solved_at is None:
            game.key("up")
            game.key("down")
    assert game.solved_at or np.abs(game.world.hand[:2] - cube[:2]).max() < 0.04
    game.start(3)
    other = next(c for c in game.world.cubes if np.abs(c - game.world.target_cube).max() > 0.05)
    for _ in game.click(*in_picture(game.world, other[None])[0]):
        pass
    assert game.solved_at is None


@pytest.mark.parametrize(("key", "sign"), [("left", (-1, 0)), ("right", (1, 0)), ("near", (0, 1))])
def test_a_key_moves_the_hand_as_it_says_on_the_picture(driver, key, sign):
    game = Game(driver, seed=1)
    before = in_picture(game.world, game.world.hand[None])[0]
    game.key(key)
    moved = in_picture(game.world, game.world.hand[None])[0] - before
    axis = 0 if sign[0] else 1
    assert moved[axis] * sign[axis] > 0.01
    assert set(KEYS) == {"left", "right", "away", "near", "up", "down"}


def test_the_policy_plays_to_the_end_and_shows_what_it_means_to_do(driver):
    solved = 0
    for seed in range(5):
        game = Game(driver, seed)
        plain = game.picture()
        for _ in game.policy_plays():
            assert game.steps <= game.driver.suite.max_steps
        assert (game.picture() != plain).any()
        assert game.path.shape == (10, 3)
        solved += game.solved_at is not None
        if game.solved_at:
            assert f"solved in {game.solved_at} steps" in game.status
    assert solved >= 3


def test_whoever_moves_takes_the_turn_from_what_was_moving(driver):
    for take in (
        Game.halt,
        lambda game: game.key("up"),
        lambda game: game.start(2),
        Game.policy_step,
    ):
        game = Game(driver, seed=1)
        playing = game.policy_plays()
        next(playing)
        take(game)
        steps = game.steps
        assert list(playing) == []
        assert game.steps == steps
    game.start(1)
    walking = game.click(0.9, 0.9)
    next(walking)
    game.halt()
    assert list(walking) == []


def test_words_that_no_judge_knows_are_told_to_the_policy_and_never_solved(driver):
    game = Game(driver, seed=2)
    game.tell("touch the sky")
    for _ in game.policy_plays():
        pass
    assert game.solved_at is None
    assert "no judge" in game.status
    tasks = game.driver.suite.tasks
    game.tell(tasks[2])
    assert (game.world.instruction, game.steps) == (tasks[2], 0)
    with pytest.raises(ValueError, match="1 to 300"):
        game.tell("")


def test_a_policy_of_another_robot_does_not_drive(tmp_path):
    from lawm_hf import BakuConfig, BakuPolicy, LAWMProcessor

    BakuPolicy(BakuConfig.from_preset("tabletop", action_size=3)).save_pretrained(tmp_path)
    LAWMProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="action has 3 numbers"):
        Driver(Run("x", tmp_path))


def test_a_policy_drives_the_suite_that_it_was_finetuned_on_and_one_of_libero_does_not(tmp_path):
    folder = Path(shutil.copytree(lawm_hf.TABLETOP_POLICY, tmp_path / "run"))
    (folder / "args.yaml").write_text("source: tabletop:place2,episodes=9\n")
    game = Game(Driver(Run("x", folder)), seed=1)
    assert game.words in SUITES["place2"].tasks
    for _ in range(2):
        game.policy_step()
    assert game.steps == 2
    (folder / "args.yaml").write_text("source: libero:DIR,suite=libero_goal\n")
    with pytest.raises(ValueError, match="finetuned on LIBERO"):
        Driver(Run("x", folder))


# ------------------------------------------------------------------------------ a run's record


def test_a_record_is_what_the_run_has_written_so_far(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 20, "loss": 3.5}\n{"step": 40, "lo\n[1]\n"x"\n{}\n'
    )
    line = {"step": 200, "swap_gap_share": 0.4, "target_r2": None, "alarms": ["dead\x1b[31m"]}
    (tmp_path / "health.jsonl").write_text(json.dumps(line) + "\n")
    for name in ("strip_000400.png", "strip_000200.png", "strip.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    record = read_record(Run("x", tmp_path))
    assert record.log.to_dict("list") == {"step": [20], "loss": [3.5]}
    assert list(record.health) == ["step", "swap_gap_share"]
    assert record.alarms == ["Update 200: dead\\x1b[31m"]
    assert [caption for _, caption in record.strips] == ["update 200", "update 400", "at the end"]
    assert len(record.results) == 0


def test_the_shipped_run_shows_health_over_updates_and_its_success():
    pair, policy = (read_record(run) for run in open_runs())
    assert len(pair.health) >= 3
    assert {"loss", "reconstruction"} <= set(pair.log)
    assert pair.strips
    assert policy.results["episodes"].tolist() == [200]
    assert policy.results["success"][0].endswith("%")


# ------------------------------------------------------------------------------ runs, films, Spaces


def test_a_run_is_found_or_its_absence_is_told(tmp_path):
    pair, policy = open_runs()
    assert pair.is_pair
    assert not policy.is_pair
    assert open_runs(lawm_hf.TABLETOP_POLICY)[0].is_pair  # ours imagines beside it
    with pytest.raises(ValueError, match="neither"):
        open_run("nobody/nothing")
    with pytest.raises(ValueError, match="has no model"):
        open_run(str(tmp_path))
    with pytest.raises(ValueError, match="Finetune it first"):
        open_runs(lawm_hf.TABLETOP, lawm_hf.TABLETOP)
    with pytest.raises(ValueError, match="a policy itself"):
        open_runs(lawm_hf.TABLETOP_POLICY, lawm_hf.TABLETOP_POLICY)


def test_the_command_takes_a_run_or_none_and_serves_this_machine_alone():
    args = parse_args(PlayArgs, [])
    assert (args.run, args.host, args.share) == ("", "127.0.0.1", False)
    assert parse_args(PlayArgs, ["outputs/x", "--port", "8000"]).run == "outputs/x"


def test_a_film_holds_its_frames_and_strangers_words_are_words():
    frames = np.random.default_rng(0).integers(0, 255, (3, 3, 8, 8), dtype=np.uint8)
    page = film(frames, "title", "<script>alert(1)</script>")
    assert "<script" not in page
    data = base64.b64decode(re.search(r"base64,([\w+/=]+)", page)[1])
    row = np.asarray(Image.open(io.BytesIO(data)))
    assert (row == np.concatenate(list(frames.transpose(0, 2, 3, 1)), 1)).all()
    assert "&lt;i&gt;" in films([(frames, "<i>")])


def test_a_space_is_a_folder_to_upload_without_token_or_path(tmp_path):
    folder = write_space(tmp_path / "space", *open_runs())
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\ntitle: ")
    assert "sdk: gradio" in readme
    assert "app_file: app.py" in readme
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("gradio") for line in lines)
    assert any(line.startswith("mujoco") for line in lines)
    assert not any("lerobot" in line or "http" in line for line in lines)
    compile((folder / "app.py").read_text(), "app.py", "exec")
    assert (folder / "lawm_hf/assets/tabletop/pretrain/config.json").is_file()
    assert not list(folder.rglob("__pycache__"))
    with pytest.raises(ValueError, match="new or empty folder"):
        write_space(folder, *open_runs())


def test_what_a_space_needs_is_what_the_package_declares():
    assert {"torch", "gradio", "mujoco"} <= {re.match(r"[\w-]+", line)[0] for line in needed()}
