"""Every kind of bad input ends with its exit code, one clear line, and a folder in which nothing has changed."""

from __future__ import annotations

import json
import pickle
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from raypose.api import run_config
from raypose.cli import main
from raypose.launch.preflight import check_run
from raypose.storage import open_store
from tests.faults.spoil import (
    IMAGE,
    LABEL,
    Hostile,
    Spoil,
    copy,
    cut,
    edit_json,
    edit_yaml,
    flip_byte,
    hostile_weights,
    nobody_labelled,
    nothing,
    put,
    relabel,
    remove,
    skeleton,
    write,
)

FAILED, BAD_USAGE, BAD_DATA = 1, 2, 3

ROW = "yolo/labels/train/synth-000000.txt"
STATE = "runs/begun/checkpoints/step-00000001/state.json"
SHARD = "shard-000000-"
"""How the name of a first shard begins; the digest of its bytes follows."""

BUILD = "data build people set"
IMPORT_COCO = "data import coco --images people/images --annotations coco.json --out set"
IMPORT_YOLO = "data import yolo yolo/data.yaml --split train --out set"


@dataclass(frozen=True)
class Case:
    """A command, what is spoilt before it, its exit code, and what it must say.

    `{model}` in a command is a checkpoint of a model with three keypoints.
    """

    command: str
    code: int
    says: tuple[str, ...]
    spoil: Spoil = nothing


def folder(spoil: Spoil, *says: str) -> Case:
    return Case(BUILD, BAD_DATA, says, spoil)


def setting(overrides: str, *says: str) -> Case:
    return Case(f"config check run.yaml {overrides}", BAD_USAGE, says)


def config_file(spoil: Spoil, *says: str) -> Case:
    return Case("config check run.yaml", BAD_USAGE, says, spoil)


def data(command: str, *says: str, spoil: Spoil = nothing) -> Case:
    return Case(command, BAD_DATA, says, spoil)


def usage(command: str, *says: str, spoil: Spoil = nothing) -> Case:
    return Case(command, BAD_USAGE, says, spoil)


def failed(command: str, *says: str, spoil: Spoil = nothing) -> Case:
    return Case(command, FAILED, says, spoil)


FOLDERS = {
    "missing label": folder(remove(LABEL), "synth-000000.jpg: no label", "labels/synth-000000.pkl"),
    "label without image": folder(remove(IMAGE), "synth-000000.pkl: no image", "images/synth-000000.jpg"),
    "images of the same stem": folder(
        copy(IMAGE, "people/images/synth-000000.png"), "synth-000000.png have the same stem"
    ),
    "file that is no label": folder(
        write("people/labels/notes.txt", "hm"), "labels/notes.txt: expected a label pickle"
    ),
    "wrong keypoint count": folder(
        relabel(lambda p: p.update(keypoints=p["keypoints"][:13])), LABEL, "(13, 3)", "(17, 3)"
    ),
    "coordinate that is NaN": folder(
        relabel(lambda p: p["keypoints"][0].__setitem__(slice(3), (np.nan, 1, 2))), "person 0, nose", "found nan 1 2"
    ),
    "box turned inside out": folder(
        relabel(lambda p: p["box"].__setitem__(2, p["box"][0] - 5)), "synth-000000", "positive"
    ),
    "box without area": folder(relabel(lambda p: p["box"].__setitem__(2, p["box"][0])), "person 0", "positive width"),
    "visibility 5": folder(
        relabel(lambda p: p["keypoints"][0].__setitem__(2, 5)),
        "synth-000000: person 0, nose: a visibility other than 0, 1 and 2, found 5",
    ),
    "class out of range": folder(relabel(put("class", 3)), "synth-000000: person 0: a class outside 0..0, found 3"),
    "key that labels do not have": folder(relabel(put("keypoint", 3)), LABEL, "unknown key 'keypoint'", "skip_keys"),
    "label of zero bytes": folder(write(LABEL, b""), LABEL, "0 bytes", "write or fetch the file again"),
    "label that ends early": folder(cut(LABEL, 0.5), LABEL, "not a readable pickle"),
    "label that runs a command": folder(write(LABEL, pickle.dumps(Hostile())), LABEL, "system", "nothing in it ran"),
    "array of Python objects": folder(write(LABEL, pickle.dumps(np.array([{}, None]))), LABEL, "dtype 'O8'"),
    "JPEG that ends early": folder(cut(IMAGE, 0.6), "synth-000000: damaged or cut-off image", "replace or remove"),
    "text called .jpg": folder(write(IMAGE, "not an image"), IMAGE, "12 bytes starting with 6e 6f 74", "are no image"),
    "image of zero bytes": folder(write(IMAGE, b""), IMAGE, "empty"),
    "nobody labelled": folder(nobody_labelled, "none of the 6 images has a person with a labelled keypoint"),
    "flip pair out of range": folder(skeleton(flip_pairs=[[1, 40]]), "dataset.yaml", "flip_pairs has (1, 40)", "0..16"),
    "keypoint in two flip pairs": folder(skeleton(flip_pairs=[[1, 2], [2, 3]]), "flip_pairs names keypoint 2", "twice"),
    "too few sigmas": folder(skeleton(sigmas=[0.1] * 5), "dataset.yaml: skeleton: 5 sigmas for 17 keypoints"),
    "keypoint names that repeat": folder(skeleton(names=["nose"] * 17), "dataset.yaml", "'nose' appears twice"),
    "skeleton with a number as key": folder(
        edit_yaml("people/dataset.yaml", lambda r: r["skeleton"].update({1: 2, "x": 3})), "unknown key '1'"
    ),
    "unknown key in dataset.yaml": folder(
        edit_yaml("people/dataset.yaml", put("sigma", 1)), "unknown key 'sigma'", "classes"
    ),
    "no dataset.yaml": folder(
        remove("people/dataset.yaml"), "people/dataset.yaml", "No such file", "classes and skeleton"
    ),
    "dataset.yaml with a 30th of February": folder(
        write("people/dataset.yaml", "classes: 2026-02-30"), "not valid YAML"
    ),
    "no folder of labels": folder(lambda root: shutil.rmtree(root / "people/labels"), "people/labels: no such folder"),
}

SETTINGS = {
    "misspelt key": setting("train.epoch=2", "override 'train.epoch=2'", "unknown key; did you mean train.epochs?"),
    "key in the wrong section": setting("train.workers=2", "did you mean scaling.workers?"),
    "unknown section": setting("training.epochs=2", "training: unknown key; did you mean train?"),
    "wrong type": setting("train.epochs=many", "train.epochs", "must be a valid integer", "'many'"),
    "zero workers": setting("scaling.workers=0", "scaling.workers", "greater than or equal to 1", "found 0"),
    "batch that lanes cannot share": setting(
        "scaling.virtual_workers=3", "train.batch 4", "3 virtual workers", "use 3 or 6"
    ),
    "more workers than virtual ones": setting(
        "scaling.workers=4 scaling.virtual_workers=2", "4 workers cannot share 2"
    ),
    "imgsz that is no multiple of 32": setting("train.imgsz=100", "train.imgsz: 100 is no multiple of 32; use 96"),
    "unknown architecture": setting("model.architecture=yolo5n", "model.architecture", "'yolo5n'"),
    "override without a value": setting("train.epochs", "train.epochs"),
    "name that is a path": setting("name=../elsewhere", "name: must match", "'../elsewhere'"),
}

FILES = {
    "no such YAML file": config_file(remove("run.yaml"), "run.yaml: cannot read the configuration: No such file"),
    "YAML that cannot be parsed": config_file(
        write("run.yaml", "name: a\ntrain: {epochs: 1\n"), "run.yaml:3: not valid YAML"
    ),
    "YAML that is no mapping": config_file(write("run.yaml", "- a\n- b\n"), "run.yaml: expected keys and values"),
    "YAML tag that does not fit": config_file(write("run.yaml", "name: !!int x"), "run.yaml: not valid YAML"),
    "YAML nested without end": config_file(write("run.yaml", "a: " + "[" * 2000), "run.yaml: not valid YAML"),
    "key given twice": config_file(
        write("run.yaml", "data: {train: train, val: val}\ntrain:\n  batch: 4\n  batch: 8\n"),
        "run.yaml:4: train.batch: given twice; keep one",
    ),
}

FOREIGN = {
    "COCO file that is no JSON": data(IMPORT_COCO, "coco.json: not valid JSON", spoil=write("coco.json", "{images: }")),
    "COCO file without keypoint names": data(
        IMPORT_COCO,
        "coco.json: category 'person' has no keypoint names",
        spoil=edit_json("coco.json", lambda raw: raw["categories"][0].pop("keypoints")),
    ),
    "COCO image that is not there": data(IMPORT_COCO, IMAGE, "cannot read the image", spoil=remove(IMAGE)),
    "COCO annotation of no image": data(
        IMPORT_COCO,
        "coco.json: annotation 1: image_id 77",
        spoil=edit_json("coco.json", lambda raw: raw["annotations"][0].update(image_id=77)),
    ),
    "YOLO row with too few columns": data(IMPORT_YOLO, f"{ROW}:1", "numbers, expected 56", spoil=cut(ROW, 0.5)),
    "YOLO row in pixels": data(
        IMPORT_YOLO, ROW, "coordinate 48, expected 0 to 1", spoil=write(ROW, "0 48 40 20 20" + " 48 40 2" * 17)
    ),
    "YOLO split that is not there": data(IMPORT_YOLO.replace("train", "test"), "no split 'test'; it has train"),
    "YOLO data.yaml without kpt_shape": data(
        IMPORT_YOLO,
        "yolo/data.yaml: no kpt_shape",
        spoil=edit_yaml("yolo/data.yaml", lambda raw: raw.pop("kpt_shape")),
    ),
}

SHARD_SETS = {
    "shard with a flipped byte": data(
        "data verify train",
        f"{SHARD}",
        ".pkl, record 0",
        "CRC-32",
        "2 faults; fetch",
        spoil=flip_byte(f"train/{SHARD}*", 100),
    ),
    "shard that is missing": data("data verify train", SHARD, "it is missing", spoil=remove(f"train/{SHARD}*")),
    "shard that ends early": data("data stats train", SHARD, "no valid footer", spoil=cut(f"train/{SHARD}*", 0.7)),
    "manifest that points outside": data(
        "data stats train",
        "train/manifest.json",
        "'../run.yaml' is no plain file name",
        spoil=edit_json("train/manifest.json", lambda raw: raw["shards"][0].update(name="../run.yaml")),
    ),
    "manifest of a newer version": data(
        "data stats train",
        "manifest version 99, expected 1; update",
        spoil=edit_json("train/manifest.json", put("version", 99)),
    ),
    "folder without manifest": data("data verify people", "people: no manifest.json", "raypose data build"),
    "set that is there already": data("data build people train", "train: there is a shard set already", "--overwrite"),
}

RUNS = {
    "neither file nor run": usage("train", "name a YAML file", "--resume RUN"),
    "weight of an unknown keypoint": usage(
        "train run.yaml train.keypoint_weights.left_paw=2", "train.keypoint_weights", "'left_paw'", "left_wrist"
    ),
    "weight of an unknown class": usage("train run.yaml train.class_weights.ball=2", "'ball'", "person"),
    "unknown best metric": usage("train run.yaml checkpoint.best_metric=ap", "no 'ap'", "pose_ap"),
    "pretrained weights that are not there": usage(
        "train run.yaml model.pretrained=no.pt", "model.pretrained", "no.pt: no such run, checkpoint or weights file"
    ),
    "batch larger than the training set": usage(
        "train run.yaml train.batch=8", "8 images is more than the 6 of data.train; use 6 or fewer"
    ),
    "training set that is not there": data(
        "train run.yaml data.train=nowhere", "nowhere: no manifest.json", "raypose data build"
    ),
    "validation set of another skeleton": data(
        "train run.yaml",
        "data.val",
        "another skeleton than data.train: other names",
        spoil=edit_json("val/manifest.json", lambda raw: raw["skeleton"]["names"].__setitem__(0, "snout")),
    ),
    "storage that is a file": failed(
        "train run.yaml storage=coco.json", "storage: ", "coco.json/new", "Not a directory"
    ),
    "storage of an unknown kind": usage("train run.yaml storage=gs://x", "gs://x", "not supported"),
    "name of an existing run": usage(
        "train run.yaml name=begun", "runs/begun", "--resume", "another name than 'begun'"
    ),
    "resuming what is no run": failed("train --resume people", "people: no run there (no config.yaml)"),
    "resuming under another recipe": failed(
        "train --resume runs/begun train.lr0=0.5", "step-00000001: made under another recipe"
    ),
    "resuming with other data": failed(
        "train --resume runs/begun data.train=val train.batch=2", "step-00000001: made from another training set"
    ),
    "resuming from a state that is none": failed(
        "train --resume runs/begun", f"{STATE}: not the state of a checkpoint", spoil=write(STATE, '{"format": 1}')
    ),
}

MODELS = {
    "data of another skeleton": failed("val {model} --data val", "predicts 3 keypoints", "val has 17"),
    "model that is not there": failed("val nowhere", "nowhere: no such run, checkpoint"),
    "predictions without annotations": usage("val --predictions coco.json", "--annotations go together"),
    "report of predictions that are there": usage(
        "val --predictions coco.json --annotations coco.json --out report", "--out is for models"
    ),
    "results that are no list": data(
        "val --predictions coco.json --annotations coco.json", "coco.json: holds a dict, expected a list"
    ),
    "weights that run a command": failed(
        "predict people/images --model hostile.pt",
        "hostile.pt: not loaded: it asks for posix.system",
        "nothing in it ran",
        spoil=hostile_weights,
    ),
    "weights that are text": failed(
        "export bad.pt", "bad.pt: not loaded: no checkpoint, or a damaged one", spoil=write("bad.pt", "hello")
    ),
    "export of a folder of images": failed("export people", "people: neither a run", "nor a checkpoint"),
    "export to another suffix": usage("export {model} --out model.pt", "model.pt", "ends in .onnx"),
    "prediction source that is not there": data("predict nowhere --model {model}", "nowhere: no such file or folder"),
    "prediction source without images": data(
        "predict people/labels --model {model}", "people/labels: 6 files, none of them an image"
    ),
    "predictions in place of a file": failed(
        "predict people/images --model {model} --out coco.json", "coco.json", "choose a place that can be written to"
    ),
    "schema in no folder": failed("config schema --out no/where.json", "no/where.json: cannot write"),
}

CASES = FOLDERS | FOREIGN | SETTINGS | FILES | SHARD_SETS | RUNS | MODELS


def contents(root: Path) -> dict[str, bytes | None]:
    """Everything below the folder: what files hold, None for folders."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def run(command: str) -> object:
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    return stopped.value.code


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_bad_input_ends_with_one_line_and_leaves_nothing(
    case: Case, workplace: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    model = request.getfixturevalue("hand_model") if "{model}" in case.command else None
    case.spoil(workplace)
    before, ray_ran = contents(workplace), ray_runs()
    code = run(case.command.format(model=model))
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert (code, len(lines)) == (case.code, 1), said.err
    assert lines[0].startswith("raypose: ")
    for words in case.says:
        assert words in said.out + said.err
    assert contents(workplace) == before
    assert ray_runs() == ray_ran


def test_every_wrong_setting_of_a_file_is_told_at_once(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = "data: {train: train, val: val}\ntrain:\n  imgsz: 100\n  epoch: 3\nscaling:\n  workers: 0\nvall: {}\n"
    (workplace / "run.yaml").write_text(text)
    assert run("train run.yaml train.batch=many") == BAD_USAGE
    told = sorted(capfd.readouterr().err.splitlines())
    expected = ["override 'train.batch=many'", "run.yaml:3: ", "run.yaml:4: ", "run.yaml:6: ", "run.yaml:7: "]
    assert [line.startswith(f"raypose: {place}") for line, place in zip(told, expected, strict=True)] == [True] * 5


def test_every_bad_label_of_a_folder_is_told_at_once(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["synth-000000", "synth-000003", "synth-000005"]
    for name in names:
        (workplace / "people/labels" / f"{name}.pkl").write_bytes(b"")
    before = contents(workplace)
    assert run(BUILD) == BAD_DATA
    told = capfd.readouterr().err.splitlines()
    assert [f"{name}.pkl" in line for name, line in zip(names, told, strict=True)] == [True] * 3
    assert contents(workplace) == before


def test_a_failed_replacement_leaves_the_older_set_as_it_was(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workplace / LABEL).write_bytes(b"")
    before = contents(workplace)
    assert run("data build people train --overwrite") == BAD_DATA
    assert contents(workplace) == before


def test_one_unreadable_image_does_not_stop_prediction_but_is_told(
    workplace: Path, hand_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workplace / IMAGE).write_bytes(b"not an image")
    assert run(f"predict people/images --model {hand_model} --imgsz 64 --out found") == BAD_DATA
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("raypose: ") and IMAGE in line
    told = (workplace / "found/predictions/part-000000.jsonl").read_text().splitlines()
    assert [IMAGE.endswith(json.loads(line)["file"]) for line in told if "error" in line] == [True]
    assert len(told) == 6


def test_a_run_that_ended_before_its_first_checkpoint_can_be_resumed(workplace: Path) -> None:
    shutil.rmtree(workplace / "runs/begun/checkpoints")
    config = run_config("runs/begun").located(workplace)
    check_run(config, open_store(config.storage).child(config.name), resume=True)
