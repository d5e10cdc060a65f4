"""A configuration is complete and correct, or every problem is named with the place it stands at."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from raypose.config import RunConfig, dump_config, load_config
from raypose.errors import ConfigError

PROJECT = Path(__file__).parents[2]
DATA = ["data.train=train", "data.val=val"]


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*DATA, *overrides])
    return caught.value.problems


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def leaves(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every dotted key with its default as YAML writes it."""
    for name, field in section.model_fields.items():
        branch: Any = field.annotation
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            yield from leaves(branch, f"{prefix}{name}.")
        elif field.is_required():
            yield prefix + name, "required"
        else:
            yield prefix + name, yaml.safe_dump(field.get_default()).removesuffix("...\n").strip()


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((PROJECT / "configs").glob("*.yaml"))
        if path.stem != "serve" and not path.stem.startswith("tune-")
    ],
    ids=lambda path: path.stem,
)
def test_every_example_configuration_loads(path: Path) -> None:
    assert load_config(path).micro_batch >= 1


def test_every_setting_is_documented_with_its_default() -> None:
    text = (PROJECT / "docs" / "configuration.md").read_text()
    assert re.findall(r"^\| `([\w.]+)` \| `(\S+)` \| \S", text, re.MULTILINE) == list(leaves())


# --- one line for each problem, with its place ---


def test_all_problems_are_reported_at_once_with_file_and_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: run\ndata:\n  train: a\n  vall: b\ntrain:\n  epochs: none\n  imgsz: 100\naugment:\n  mosaic: 2\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["scaling.device=tpu"])
    assert caught.value.problems == [
        f"{path}:2: data.val: missing; set data.val",
        f"{path}:4: data.vall: unknown key; did you mean data.val?",
        f"{path}:6: train.epochs: must be a valid integer, found 'none'",
        f"{path}:7: train.imgsz: 100 is no multiple of 32; use 96",
        f"{path}:9: augment.mosaic: must be less than or equal to 1, found 2",
        "override 'scaling.device=tpu': scaling.device: must be 'auto', 'cpu' or 'cuda', found 'tpu'",
    ]


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("train.epoch=3", "did you mean train.epochs?"),
        ("epochs=3", "did you mean train.epochs?"),
        ("trian.epochs=3", "did you mean train?"),
        ("data.shufle_window=3", "did you mean data.shuffle_window?"),
        ("zzz=3", "known here: name, storage, model"),
    ],
)
def test_an_unknown_key_suggests_the_near_one(override: str, suggestion: str) -> None:
    (problem,) = problems(override)
    assert "unknown key" in problem
    assert suggestion in problem


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("train.freeze=x", "train.freeze: must be a valid integer or a list, found 'x'"),
        ("train.freeze=[1, -1]", "train.freeze: must be greater than or equal to 0, found -1"),
        ("data.loader_workers=many", "data.loader_workers: must be a valid integer or 'auto', found 'many'"),
        ("train=5", "train: must be a section with keys of its own, found 5"),
        ("train=", "train: must be a section with keys of its own, found None"),
        ("train.epochs=yes", "train.epochs: must be a valid integer, found True"),
        ("train.lr0='0.1'", "train.lr0: must be a valid number, found '0.1'"),
        ("train.lr0=.nan", "train.lr0: must be a finite number, found nan"),
        ("telemetry.tensorboard=1", "telemetry.tensorboard: must be a valid boolean, found 1"),
        ("name=../up", "name: must match pattern"),
        (
            "train.class_weights={no: 2}",
            "train.class_weights.False: must be a valid string, found False; YAML takes digits for a number, and words"
            " such as no for true, false or nothing: put it in quotes",
        ),
        ("train.class_weights={01: 2}", "train.class_weights.1: must be a valid string, found 1; YAML takes digits"),
        ("train.class_weights={~: 2}", "train.class_weights.None: must be a valid string, found None; YAML takes"),
        ("name=2026", "name: must be a valid string, found 2026; YAML takes digits"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(override: str, rule: str) -> None:
    (problem,) = problems(override)
    assert problem.startswith(f"override {override!r}: {rule}")


def test_a_batch_that_cannot_be_shared_out_names_the_next_ones_that_can() -> None:
    assert "use 30 or 33" in problems("train.batch=32", "scaling.virtual_workers=3")[0]
    assert "use 8" in problems("train.batch=4", "scaling.workers=8")[0]


def test_more_workers_than_virtual_workers_are_refused() -> None:
    (problem,) = problems("train.batch=8", "scaling.workers=4", "scaling.virtual_workers=2")
    assert "4 workers cannot share 2 virtual workers" in problem


def test_missing_data_says_which_keys_to_set() -> None:
    with pytest.raises(ConfigError, match=r"data: missing; set data\.train and data\.val"):
        load_config(None)


def test_config_errors_survive_pickling_with_all_problems() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.epochs=0", "train.lr0=0"])
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


# --- files ---


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {train: a, val: b}\ntrain:\n  epochs: 3\n  epochs: 4\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:4: train\.epochs: given twice"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1, 2", r"run\.yaml:1: not valid YAML"),
        ("- a\n- b\n", "expected keys and values"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
        ("name: \x00", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("train: &ring {epochs: *ring}", "epochs: must be a valid integer"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text), DATA)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "# nothing yet\n"), DATA) == load_config(None, DATA)


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 1e-3), ("1E3", 1e3), ("2.e-1", 0.2), (".5e1", 5.0), ("1.5e+0", 1.5), ("3", 3.0)]
)
def test_exponents_are_numbers_without_a_decimal_point(text: str, number: float) -> None:
    assert load_config(None, [*DATA, f"train.lr0={text}"]).train.lr0 == number


# --- overrides ---


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {train: a, val: b}\ntrain: {epochs: 5, imgsz: 320}\n")
    config = load_config(path, ["train.epochs=2", "train.epochs=7", "data.val=c"])
    assert (config.train.epochs, config.train.imgsz, config.data.val) == (7, 320, "c")


def test_an_override_with_a_list_and_one_with_null() -> None:
    config = load_config(None, [*DATA, "train.freeze=[0, 1]", "model.pretrained=null"])
    assert config.train.freeze == (0, 1)
    assert config.model.pretrained is None


def test_an_override_of_a_whole_section_answers_for_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {train: a, val: b}\ntrain:\n  epochs: 5\n")
    with pytest.raises(ConfigError, match=r"^override 'train={epochs: 0}': train\.epochs"):
        load_config(path, ["train={epochs: 0}"])


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", ".=1"])
def test_a_malformed_override_shows_how_to_write_one(override: str) -> None:
    assert "expected key.sub=value" in problems(override)[0]


def test_an_override_below_a_value_is_refused() -> None:
    assert "epochs is a value, not a section" in problems("train.epochs=3", "train.epochs.more=1")[0]


# --- round trip, immutability, digest ---

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
LAYERS = st.integers(0, 30) | st.lists(st.integers(0, 30))


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    workers, lanes_each, micro = (draw(st.integers(1, 4)) for _ in range(3))
    return RunConfig.model_validate(
        {
            "name": draw(NAMES),
            "storage": draw(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())),
            "model": {"pretrained": draw(st.none() | NAMES)},
            "data": {
                "train": draw(NAMES),
                "val": draw(NAMES),
                "loader_workers": draw(st.just("auto") | st.integers(0)),
            },
            "train": {
                "batch": workers * lanes_each * micro,
                "lr0": draw(st.floats(1e-12, 10)),
                "freeze": draw(LAYERS),
                "freeze_schedule": draw(st.dictionaries(st.integers(1, 99), LAYERS, max_size=2)),
            },
            "scaling": {"workers": workers, "virtual_workers": workers * lanes_each},
        }
    )


@given(config=configs())
@settings(deadline=None)
def test_a_dumped_configuration_loads_as_the_same_value(
    config: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("round-trip"), dump_config(config))
    loaded = load_config(path)
    assert loaded == config
    assert loaded.recipe_digest() == config.recipe_digest()


@pytest.mark.parametrize("name", ["1e3", "2026-11-23", "2026-99-99", "null", "yes", "0x1F", "1_000"])
def test_names_that_look_like_other_values_survive_the_round_trip(tmp_path: Path, name: str) -> None:
    config = load_config(None, DATA).model_copy(update={"name": name})
    assert load_config(write(tmp_path, dump_config(config))).name == name


def test_a_configuration_cannot_be_changed() -> None:
    config = load_config(None, DATA)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]


SAME_RECIPE = [
    "name=other", "storage=elsewhere", "model.pretrained=w.pt", "data.train=moved", "data.val=moved",
    "data.loader_workers=2", "data.loader=processes", "data.batches_ahead=9",
    "data.max_bad_fraction=0.5", "scaling.workers=2", "scaling.device=cpu", "scaling.cpus_per_worker=1",
    "checkpoint.every_steps=5", "checkpoint.keep_last=9", "val.every_epochs=2", "val.conf=0.1",
    "telemetry.tensorboard=false", "train.lr0=1e-2",
]  # fmt: skip
OTHER_RECIPE = [
    "model.architecture=yolo26n-pose", "data.shuffle_window=64", "train.epochs=3",
    "train.batch=32", "train.imgsz=320", "train.seed=1", "train.deterministic=false", "train.precision=float32",
    "train.optimizer=SGD", "train.lr0=0.02", "train.pose=1", "train.freeze=1", "augment.mosaic=0.5",
    "augment.fliplr=0", "scaling.virtual_workers=8",
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "same"), [(SAME_RECIPE, True), (OTHER_RECIPE, False)])
def test_the_recipe_digest_changes_exactly_with_what_decides_how_training_goes_on(
    overrides: list[str], same: bool
) -> None:
    base = [*DATA, "scaling.virtual_workers=4"]
    digest = load_config(None, base).recipe_digest()
    for override in overrides:
        assert (load_config(None, [*base, override]).recipe_digest() == digest) == same, override


def test_the_number_of_virtual_workers_is_part_of_the_recipe_even_when_it_is_implied() -> None:
    implied = load_config(None, [*DATA, "scaling.workers=4"])
    stated = load_config(None, [*DATA, "scaling.workers=2", "scaling.virtual_workers=4"])
    assert implied.recipe_digest() == stated.recipe_digest()
    assert implied.micro_batch == stated.micro_batch == 4
