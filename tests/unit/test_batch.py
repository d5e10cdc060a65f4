"""Prediction over images, folders, globs and videos, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raypose.batch import Frame, ImageFiles, Unreadable, VideoFile, VideoFormat, open_source, predict_source
from raypose.errors import ConfigError, DataError, StorageError
from raypose.structures import ImageArray, Poses, Skeleton
from raypose.vision.draw import encode_png

HANDS = Skeleton(names=("left_hand", "right_hand"), edges=((0, 1),), flip_pairs=((0, 1),))


@dataclass(frozen=True)
class Spec:
    class_names: tuple[str, ...] = ("person", "robot")


@dataclass
class BrightestPixel:
    """Finds one robot, at the brightest pixel of each image that has a bright one."""

    spec: Spec = field(default_factory=Spec)
    batches: list[int] = field(default_factory=list)

    def predict(self, images: Sequence[ImageArray]) -> list[Poses]:
        self.batches.append(len(images))
        return [self._one(image) for image in images]

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


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def names(source: ImageFiles | VideoFile) -> list[str]:
    return [item.name for item in source]


def test_a_single_image_is_read_as_rgb(tmp_path: Path) -> None:
    (frame,) = open_source(str(write_image(tmp_path / "a.png")))
    assert isinstance(frame, Frame)
    assert (frame.name, frame.index) == ("a.png", 0)
    assert frame.image_HW3[10, 20].tolist() == [255, 0, 0]


def test_a_folder_is_searched_recursively_in_order_without_hidden_or_foreign_files(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.PNG", "a/.hidden.png", ".cache/c.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert names(open_source(str(tmp_path))) == ["a/z.PNG", "b.png"]


def test_a_glob_names_files_below_its_fixed_part(tmp_path: Path) -> None:
    for name in ("x/1.png", "x/deep/2.png", "y/3.png"):
        write_image(tmp_path / name)
    assert names(open_source(f"{tmp_path}/x/**/*.png")) == ["1.png", "deep/2.png"]
    assert names(open_source(f"{tmp_path}/*/?.png")) == ["x/1.png", "y/3.png"]


def test_an_existing_file_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    assert names(open_source(str(write_image(tmp_path / "shot[1].png")))) == ["shot[1].png"]


@pytest.mark.parametrize("source", ["missing", "missing/*.png", "empty", "text.txt"])
def test_a_source_without_images_is_refused_by_name(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(DataError, match=source.split("/", maxsplit=1)[0]):
        open_source(str(tmp_path / source))


def test_a_folder_of_videos_says_to_predict_them_one_at_a_time(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(DataError, match="one at a time"):
        open_source(str(tmp_path))


def test_a_video_gives_its_frames_and_rate(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "clip.mp4")))
    assert isinstance(source, VideoFile)
    assert source.fps == pytest.approx(12.0)
    frames = list(source)
    assert [frame.index for frame in frames if isinstance(frame, Frame)] == list(range(10))
    assert not any(isinstance(frame, Unreadable) for frame in frames)


def test_a_file_that_only_claims_to_be_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"clip\.mp4"):
        open_source(str(tmp_path / "clip.mp4"))


def test_every_image_gets_one_line_with_named_keypoints(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "sub" / "dark.png", np.zeros((8, 9, 3), np.uint8))
    summary = predict_source(BrightestPixel(), str(tmp_path / "in"), tmp_path / "out", skeleton=HANDS)
    assert lines(tmp_path / "out") == [
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


def test_pictures_keep_their_paths_and_never_overwrite_each_other(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "sub" / "a.png")
    write_image(tmp_path / "in" / "sub" / "a.bmp")
    predict_source(BrightestPixel(), str(tmp_path / "in"), tmp_path / "out", skeleton=HANDS)
    drawn = sorted((tmp_path / "out" / "pictures").rglob("*.*"))
    assert [path.name for path in drawn] == ["a.jpg", "a.png.jpg"]
    assert cv2.imread(str(drawn[0])).shape == (32, 48, 3)


def test_without_pictures_only_the_lines_are_written(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    predict_source(BrightestPixel(), str(source), tmp_path / "out", skeleton=HANDS, pictures=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


def test_one_bad_image_is_reported_by_name_and_the_others_are_predicted(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.jpg").write_bytes(b"no image")
    summary = predict_source(BrightestPixel(), str(tmp_path / "in"), tmp_path / "out", skeleton=HANDS)
    assert [line["file"] for line in lines(tmp_path / "out")] == ["a.png", "c.png"]
    assert len(summary.failures) == 1
    assert "b.jpg" in summary.failures[0]
    assert "1 failed" in str(summary)


def test_images_are_predicted_in_batches_and_progress_is_told(tmp_path: Path) -> None:
    for index in range(5):
        write_image(tmp_path / "in" / f"{index}.png")
    predictor, heard = BrightestPixel(), []
    predict_source(
        predictor,
        str(tmp_path / "in"),
        tmp_path / "out",
        skeleton=HANDS,
        batch=2,
        on_progress=lambda done, total: heard.append((done, total)),
    )
    assert predictor.batches == [2, 2, 1]
    assert heard == [(2, 5), (4, 5), (5, 5)]


def test_a_video_becomes_an_annotated_video_and_a_line_a_frame(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4")
    summary = predict_source(BrightestPixel(), str(source), tmp_path / "out", skeleton=HANDS, batch=4)
    assert summary.images == 10
    assert [line["frame"] for line in lines(tmp_path / "out")] == list(range(10))
    found_x = [line["people"][0]["keypoints"][0]["x"] for line in lines(tmp_path / "out")]
    assert found_x == sorted(found_x)
    annotated = open_source(str(tmp_path / "out" / "pictures" / "clip.mp4"))
    assert isinstance(annotated, VideoFile)
    assert annotated.fps == pytest.approx(12.0)
    assert len(list(annotated)) == 10


def test_a_video_can_be_written_for_browsers(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4")
    predict_source(BrightestPixel(), str(source), tmp_path / "out", skeleton=HANDS, video_format="webm")
    (written,) = (tmp_path / "out" / "pictures").iterdir()
    assert written.name == "clip.webm"
    assert written.read_bytes()[:4] == b"\x1aE\xdf\xa3"  # Matroska
    assert b"V_VP8" in written.read_bytes()
    annotated = open_source(str(written))
    assert isinstance(annotated, VideoFile)
    assert len(list(annotated)) == 10


@pytest.mark.parametrize("video_format", ["mp4", "webm"])
def test_a_video_of_odd_size_keeps_all_its_frames(tmp_path: Path, video_format: VideoFormat) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "odd.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (65, 47))
    for _ in range(5):
        writer.write(np.full((47, 65, 3), 200, np.uint8))
    writer.release()
    summary = predict_source(
        BrightestPixel(), str(tmp_path / "odd.avi"), tmp_path / "out", skeleton=HANDS, video_format=video_format
    )
    assert summary.images == 5
    assert len(list(open_source(str(tmp_path / "out" / "pictures" / f"odd.{video_format}")))) == 5


def test_names_are_written_beside_keypoints_where_they_are_asked_for(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png", picture(100, 80, width=320, height=240))
    for text in ("none", "names"):
        predict_source(BrightestPixel(), str(source), tmp_path / text, skeleton=HANDS, keypoint_text=text)
    plain, named = (cv2.imread(str(tmp_path / text / "pictures" / "a.jpg")).astype(int) for text in ("none", "names"))
    assert (np.abs(named - plain).max(axis=2) > 60).sum() > 50


def test_a_video_that_breaks_off_is_reported_after_the_frames_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    summary = predict_source(BrightestPixel(), str(path), tmp_path / "out", skeleton=HANDS)
    assert 0 < summary.images < 50
    assert len(lines(tmp_path / "out")) == summary.images
    assert "of 60 frames" in summary.failures[0]


def test_predicting_the_pictures_of_the_same_output_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "out" / "pictures" / "a.png")
    with pytest.raises(DataError, match="overwrite"):
        predict_source(BrightestPixel(), str(tmp_path / "out" / "pictures"), tmp_path / "out", skeleton=HANDS)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    with pytest.raises(StorageError, match=r"a\.png"):
        predict_source(BrightestPixel(), str(source), source, skeleton=HANDS)


def test_predictions_appear_only_when_all_are_made(tmp_path: Path) -> None:
    class Breaks(BrightestPixel):
        def predict(self, images: Sequence[ImageArray]) -> list[Poses]:
            raise RuntimeError("out of memory")

    source = write_image(tmp_path / "a.png")
    with pytest.raises(RuntimeError):
        predict_source(Breaks(), str(source), tmp_path / "out", skeleton=HANDS)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_an_empty_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch 0"):
        predict_source(BrightestPixel(), str(tmp_path), tmp_path / "out", skeleton=HANDS, batch=0)
