"""Prediction over images, folders, globs, shard sets and videos, and what it leaves behind."""

from __future__ import annotations

import json
import os
import socket
import threading
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest

import raypose
from raypose.batch import Crew, PredictSummary, Progress, Settings, Source, VideoFormat, open_source, predict_source
from raypose.batch import plan as plans
from raypose.batch.on_ray import require_shared
from raypose.batch.plan import Part, settle_plan
from raypose.batch.work import PartWork
from raypose.errors import CheckpointError, ConfigError, DataError, StorageError
from raypose.inference import Fitted, Lanes
from raypose.storage import open_store
from raypose.structures import ImageArray, Poses, Skeleton
from raypose.vision.draw import encode_png
from raypose.vision.video import VideoFile
from tests.data_sets import build_synthetic

HANDS = Skeleton(names=("left_hand", "right_hand"), edges=((0, 1),), flip_pairs=((0, 1),))
PLAIN = Settings("brightest", "v1", pictures=False)


@dataclass(frozen=True)
class Spec:
    class_names: tuple[str, ...] = ("person", "robot")
    skeleton: Skeleton = HANDS


@dataclass
class BrightestPixel:
    """Finds one robot, at the brightest pixel of each image that has a bright one."""

    spec: Spec = field(default_factory=Spec)
    batches: list[int] = field(default_factory=list)
    lanes: int = 1

    def twin(self) -> Self:
        return self

    def fit(self, image: ImageArray, where: str) -> Fitted:
        return Fitted(image.shape[1], (image,), (), ())

    def predict_fitted(self, images: Sequence[Fitted]) -> list[Poses]:
        self.batches.append(len(images))
        return [self._one(image.canvases[0]) for image in images]

    def _one(self, image: ImageArray) -> Poses:
        red_HW = image[..., 0].astype(int)
        y, x = np.unravel_index(red_HW.argmax(), red_HW.shape)
        count = int(red_HW.max() > 150)
        return Poses(
            np.array([[x - 5, y - 5, x + 5, y + 5]], np.float32)[:count],
            np.array([0.91234567], np.float32)[:count],
            np.ones(1, np.int64)[:count],
            np.array([[[x, y, 0.9], [x + 3, y, 0.2]]], np.float32)[:count],
        )


def predicted(
    source: Path | str, out: Path, settings: Settings = PLAIN, predictor: BrightestPixel | None = None, **options: Any
) -> PredictSummary:
    return predict_source(lambda: predictor or BrightestPixel(), str(source), out, settings, **options)


def picture(x: int = 20, y: int = 10, *, width: int = 48, height: int = 32) -> ImageArray:
    image = np.full((height, width, 3), 40, np.uint8)
    image[y - 2 : y + 3, x - 2 : x + 3] = (180, 0, 0)
    image[y, x] = (255, 0, 0)
    return image


def write_image(path: Path, image: ImageArray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture() if image is None else image))
    return path


def write_video(path: Path, frames: int = 10, fps: float = 12.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
    for index in range(frames):
        writer.write(cv2.cvtColor(picture(10 + 4 * (index % 12), 20, width=64, height=48), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def rows(out: Path) -> list[dict[str, Any]]:
    parts = sorted((out / "predictions").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def video_at(path: Path) -> VideoFile:
    return VideoFile.open(path, str(path))


def test_a_folder_is_searched_recursively_in_order_without_hidden_or_foreign_files(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.PNG", "a/.hidden.png", ".cache/c.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert open_source(str(tmp_path)) == Source(str(tmp_path), ("a/z.PNG", "b.png"), ("clip.mp4",))


def test_a_glob_names_files_below_its_fixed_part(tmp_path: Path) -> None:
    for name in ("x/1.png", "x/deep/2.png", "y/3.png"):
        write_image(tmp_path / name)
    assert open_source(f"{tmp_path}/x/**/*.png").images == ("1.png", "deep/2.png")
    assert open_source(f"{tmp_path}/*/?.png").images == ("x/1.png", "y/3.png")


def test_an_existing_file_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    assert open_source(str(write_image(tmp_path / "shot[1].png"))).images == ("shot[1].png",)


@pytest.mark.parametrize("source", ["missing", "missing/*.png", "empty", "text.txt"])
def test_a_source_without_images_is_refused_by_name(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(DataError, match=source.split("/", maxsplit=1)[0]):
        open_source(str(tmp_path / source))


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"caf\xe9/b.png"])
def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_planned(tmp_path: Path, name: bytes) -> None:
    write_image(tmp_path / "in" / "a.png")
    image = write_image(tmp_path / "in" / os.fsdecode(name))
    for source in (tmp_path / "in", image, f"{tmp_path}/in/**/*.png"):
        with pytest.raises(DataError, match=r"caf\\udce9.*is not UTF-8.*rename it") as caught:
            predicted(source, tmp_path / "out", replace(PLAIN, format="parquet"))
        assert str(caught.value).encode()
    assert not (tmp_path / "out").exists()


def test_every_image_gets_one_line_with_named_keypoints(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "sub" / "dark.png", np.zeros((8, 9, 3), np.uint8))
    summary = predicted(tmp_path / "in", tmp_path / "out")
    assert rows(tmp_path / "out") == [
        {
            "file": "a.png",
            "width": 48,
            "height": 32,
            "people": [
                {
                    "box": [15.0, 5.0, 25.0, 15.0],
                    "score": 0.9123,
                    "class": "robot",
                    "keypoints": [
                        {"name": "left_hand", "x": 20.0, "y": 10.0, "confidence": 0.9},
                        {"name": "right_hand", "x": 23.0, "y": 10.0, "confidence": 0.2},
                    ],
                }
            ],
        },
        {"file": "sub/dark.png", "width": 9, "height": 8, "people": []},
    ]
    assert (summary.images, summary.people, summary.failures) == (2, 1, ())
    assert "2 images, 1 people" in str(summary)
    assert json.loads((tmp_path / "out/summary.json").read_text())["people"] == 1


def test_images_of_one_shape_go_through_the_model_together_and_lines_keep_the_order(tmp_path: Path) -> None:
    for index in range(6):
        write_image(tmp_path / "in" / f"{index}.png", picture(width=48 if index % 2 else 64))
    predictor = BrightestPixel()
    predicted(tmp_path / "in", tmp_path / "out", predictor=predictor, batch=2)
    assert sorted(predictor.batches) == [1, 1, 2, 2]
    assert [row["file"] for row in rows(tmp_path / "out")] == [f"{index}.png" for index in range(6)]


def test_pictures_keep_their_paths_and_never_overwrite_each_other(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "b.jpg"):
        write_image(tmp_path / "in" / "sub" / name)
    predicted(tmp_path / "in", tmp_path / "out", replace(PLAIN, pictures=True))
    drawn = sorted((tmp_path / "out" / "pictures").rglob("*.*"))
    assert [path.name for path in drawn] == ["a.bmp.jpg", "a.png.jpg", "b.jpg"]
    assert cv2.imread(str(drawn[0])).shape == (32, 48, 3)


def test_one_bad_image_is_told_in_its_place_and_the_others_are_predicted(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.jpg").write_bytes(b"no image")
    for kind in ("jsonl", "parquet"):
        summary = predicted(tmp_path / "in", tmp_path / kind, replace(PLAIN, format=kind))
        assert (summary.images, summary.failed) == (2, 1)
        assert "b.jpg" in summary.failures[0]
        assert "1 failed" in str(summary)
    told = rows(tmp_path / "jsonl")
    assert [row["file"] for row in told] == ["a.png", "b.jpg", "c.png"]
    assert ["error" in row for row in told] == [False, True, False]


def test_rows_of_parquet_say_the_same_as_lines_of_json(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_image(tmp_path / "in" / "a.png")
    predicted(tmp_path / "in", tmp_path / "lines")
    predicted(tmp_path / "in", tmp_path / "rows", replace(PLAIN, format="parquet"))
    (row,) = pyarrow.parquet.read_table(tmp_path / "rows" / "predictions").to_pylist()
    (line,) = rows(tmp_path / "lines")
    assert (row["file"], row["width"], row["frame"], row["error"]) == ("a.png", 48, None, None)
    (person,), (expected,) = row["people"], line["people"]
    assert person["box"] == expected["box"]
    assert [point["name"] for point in person["keypoints"]] == ["left_hand", "right_hand"]
    assert person["keypoints"][0]["confidence"] == pytest.approx(0.9)


def test_a_part_goes_through_all_lanes_whichever_thread_brings_it(tmp_path: Path) -> None:
    """A thread of PyTorch may come to believe that there is one core, because another one computes alone."""

    class Together(BrightestPixel):
        both = threading.Barrier(2)

        def predict_fitted(self, images: Sequence[Fitted]) -> list[Poses]:
            self.both.wait(20)
            return super().predict_fitted(images)

    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png")
    out = open_store(str(tmp_path / "out"))
    plan = settle_plan(out, str(tmp_path / "in"), PLAIN)
    predictor = Together(lanes=2)
    work = PartWork(plan, out, predictor, Lanes(predictor), batch=1)
    predictor.lanes = 1
    assert work(plan.parts[0]).images == 2


def test_progress_is_told_while_images_are_predicted(tmp_path: Path) -> None:
    for index in range(5):
        write_image(tmp_path / "in" / f"{index}.png")
    heard: list[Progress] = []
    predicted(tmp_path / "in", tmp_path / "out", batch=2, on_progress=heard.append)
    assert [progress.images for progress in heard] == [2, 4, 5, 5]
    assert (heard[-1].done, heard[-1].inputs) == (5, 5)


def test_the_samples_of_a_shard_set_are_predicted_by_their_ids(tmp_path: Path) -> None:
    shards = build_synthetic(tmp_path) / "val"
    summary = predicted(shards, tmp_path / "out")
    told = [row["file"] for row in rows(tmp_path / "out")]
    assert len(told) == len(set(told)) == summary.inputs == summary.images > 0


def test_who_comes_again_does_what_is_missing_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "IMAGES_A_PART", 2)
    for index in range(6):
        write_image(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / "1.png").write_bytes(b"no image")

    class Breaks(BrightestPixel):
        def predict_fitted(self, images: Sequence[Fitted]) -> list[Poses]:
            if sum(self.batches) + len(images) > 3:
                raise RuntimeError("out of memory")
            return super().predict_fitted(images)

    with pytest.raises(RuntimeError):
        predicted(tmp_path / "in", tmp_path / "out", predictor=Breaks())
    begun = rows(tmp_path / "out")
    assert [row["file"] for row in begun] == ["0.png", "1.png", "2.png", "3.png"]
    assert not (tmp_path / "out/summary.json").exists()

    again = BrightestPixel()
    summary = predicted(tmp_path / "in", tmp_path / "out", predictor=again)
    assert again.batches == [2]
    assert [row["file"] for row in rows(tmp_path / "out")] == [f"{index}.png" for index in range(6)]
    assert (summary.images, summary.people, summary.failed, summary.resumed) == (5, 5, 1, 4)
    assert predicted(tmp_path / "in", tmp_path / "out", predictor=again).images == 5
    assert again.batches == [2]


def test_predictions_of_something_else_are_refused_with_what_differs(tmp_path: Path) -> None:
    source = write_image(tmp_path / "in" / "a.png")
    predicted(source, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"with version v1, not v2, and with conf 0\.25, not 0\.5; .*another --out"):
        predicted(source, tmp_path / "out", replace(PLAIN, version="v2", conf=0.5))
    with pytest.raises(ConfigError, match=r"of .*a\.png, not of .*in"):
        predicted(source.parent, tmp_path / "out")


def test_predictions_in_another_precision_are_refused(tmp_path: Path) -> None:
    """And a plan that says nothing of it is one from before there was a choice: float32."""
    source, out = write_image(tmp_path / "in" / "a.png"), tmp_path / "out"
    predicted(source, out)
    plan = json.loads((out / "plan.json").read_text())
    del plan["settings"]["precision"]
    (out / "plan.json").write_text(json.dumps(plan))
    assert predicted(source, out).resumed == 1
    with pytest.raises(ConfigError, match=r"with precision float32, not bfloat16; .*another --out"):
        predicted(source, out, replace(PLAIN, precision="bfloat16"))


def test_a_plan_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    predicted(write_image(tmp_path / "a.png"), tmp_path / "out")
    (tmp_path / "out/plan.json").write_text('{"version": 99}')
    with pytest.raises(DataError, match=r"plan\.json.*version 99.*another --out"):
        predicted(tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_list_of_parts_that_is_damaged_is_said(tmp_path: Path, damage: str) -> None:
    predicted(write_image(tmp_path / "a.png"), tmp_path / "out")
    (listed,) = (tmp_path / "out/plan").iterdir()
    content = listed.read_bytes()
    listed.write_bytes(content[:20] if damage == "cut off" else content[:12] + b"\xff" * 8 + content[20:])
    with pytest.raises(DataError, match=r"plan\.json.*another --out"):
        predicted(tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize("part", [Part(3, images=("a", "b")), Part(0, video="c.mp4"), Part(1, start=128, stop=256)])
def test_a_part_survives_being_written_down(part: Part) -> None:
    assert Part.from_dict(json.loads(json.dumps(part.to_dict()))) == part


def test_a_video_becomes_an_annotated_video_and_a_line_a_frame(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4")
    summary = predicted(source, tmp_path / "out", replace(PLAIN, pictures=True), batch=4)
    assert (summary.inputs, summary.images) == (1, 10)
    assert [row["frame"] for row in rows(tmp_path / "out")] == list(range(10))
    found_x = [row["people"][0]["keypoints"][0]["x"] for row in rows(tmp_path / "out")]
    assert found_x == sorted(found_x)
    annotated = video_at(tmp_path / "out" / "pictures" / "clip.mp4")
    assert annotated.fps == pytest.approx(12.0)
    assert len(list(annotated.frames())) == 10


def test_videos_and_images_of_a_folder_are_predicted_together(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_video(tmp_path / "in" / "clip.mp4", frames=3)
    (tmp_path / "in" / "false.mp4").write_bytes(b"not a video")
    summary = predicted(tmp_path / "in", tmp_path / "out")
    assert (summary.inputs, summary.images, summary.failed) == (3, 4, 1)
    assert "false.mp4" in summary.failures[0]
    assert {row["file"] for row in rows(tmp_path / "out")} == {"a.png", "clip.mp4", "false.mp4"}


def test_a_person_keeps_the_number_through_a_tracked_video(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4", frames=8)
    predicted(source, tmp_path / "out", replace(PLAIN, track=True))
    assert [row["people"][0]["id"] for row in rows(tmp_path / "out")] == [1] * 8


def test_a_video_can_be_written_for_browsers(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4")
    predicted(source, tmp_path / "out", replace(PLAIN, pictures=True, video_format="webm"))
    (written,) = (tmp_path / "out" / "pictures").iterdir()
    assert written.name == "clip.mp4.webm"
    assert written.read_bytes()[:4] == b"\x1aE\xdf\xa3"  # Matroska
    assert b"V_VP8" in written.read_bytes()
    assert len(list(video_at(written).frames())) == 10


@pytest.mark.parametrize("video_format", ["mp4", "webm"])
def test_a_video_of_odd_size_keeps_all_its_frames(tmp_path: Path, video_format: VideoFormat) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "odd.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (65, 47))
    for _ in range(5):
        writer.write(np.full((47, 65, 3), 200, np.uint8))
    writer.release()
    settings = replace(PLAIN, pictures=True, video_format=video_format)
    assert predicted(tmp_path / "odd.avi", tmp_path / "out", settings).images == 5
    assert len(list(video_at(tmp_path / "out" / "pictures" / f"odd.avi.{video_format}").frames())) == 5


def test_names_are_written_beside_keypoints_where_they_are_asked_for(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png", picture(100, 80, width=320, height=240))
    for text in ("none", "names"):
        predicted(source, tmp_path / text, replace(PLAIN, pictures=True, text=text))
    plain, named = (
        cv2.imread(str(tmp_path / text / "pictures" / "a.png.jpg")).astype(int) for text in ("none", "names")
    )
    assert (np.abs(named - plain).max(axis=2) > 60).sum() > 50


class FitsThumbnails(BrightestPixel):
    def fit(self, image: ImageArray, where: str) -> Fitted:
        return super().fit(image[::64, ::64].copy(), where)


def test_large_photos_do_not_fill_memory_while_they_wait_to_be_drawn_on(tmp_path: Path) -> None:
    side, photos = 2_200, 32
    pixel_bytes = 3 * side * side
    first = write_image(tmp_path / "in" / "0.png", picture(1_000, 2_000, width=side, height=side))
    for number in range(1, photos):
        (tmp_path / "in" / f"{number}.png").hardlink_to(first)
    tracemalloc.start()
    predicted(tmp_path / "in", tmp_path / "out", replace(PLAIN, pictures=True), FitsThumbnails(), batch=photos)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < photos * pixel_bytes * 0.8  # all of them were there before the first was drawn on
    drawn = sorted((tmp_path / "out" / "pictures").iterdir())
    assert len({path.read_bytes() for path in drawn}) == 1
    assert np.abs(cv2.imread(str(drawn[0])).astype(int) - 40)[1_950:2_050, 950:1_050].max() > 60
    assert len(drawn) == photos


def test_a_video_that_breaks_off_is_reported_after_the_frames_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    summary = predicted(path, tmp_path / "out")
    assert 0 < summary.images < 50
    assert len(rows(tmp_path / "out")) == summary.images + 1
    assert "of 60 frames" in summary.failures[0]


def test_predicting_the_pictures_of_the_same_output_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "out" / "pictures" / "a.png")
    with pytest.raises(DataError, match="overwrite"):
        predicted(tmp_path / "out" / "pictures", tmp_path / "out", replace(PLAIN, pictures=True))


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    with pytest.raises(StorageError, match=r"a\.png"):
        predicted(source, source)


@pytest.mark.parametrize("workers", [None, 2])
def test_a_model_that_cannot_be_used_leaves_nothing_behind(tmp_path: Path, workers: int | None) -> None:
    source, model = write_image(tmp_path / "a.png"), tmp_path / "broken.pt"
    model.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken\.pt"):
        raypose.predict(model, source, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_nobody_and_nothing_at_a_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch 0"):
        predicted(tmp_path, tmp_path / "out", batch=0)
    with pytest.raises(ConfigError, match="workers 0"):
        raypose.predict(tmp_path, tmp_path, tmp_path / "out", workers=0)


def test_what_does_not_work_through_ray_client_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "images" / "a.png")
    monkeypatch.setattr("ray.util.client.ray.is_connected", lambda: True)
    with pytest.raises(ConfigError, match="raypose submit predict"):
        predicted(tmp_path / "images", tmp_path / "out", crew=Crew(1, 1, 0.0))


def test_a_worker_whose_node_has_not_the_folders_publishes_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    predicted(tmp_path / "images", tmp_path / "out")
    seen = open_store(str(tmp_path / "out"))
    require_shared(str(tmp_path / "images"), seen)
    for root, out in (("nowhere", seen), (str(tmp_path / "images"), seen.child("other"))):
        with pytest.raises(StorageError, match=rf"(nowhere|plan\.json): not there on {socket.gethostname()}.*s3://"):
            require_shared(root, out)
