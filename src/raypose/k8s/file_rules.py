"""Rules for the YAML files that a job is given, and whether they fit the pods that will read them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath

from raypose.config import RunConfig, parse_config
from raypose.config.load import parse_placed
from raypose.config.s3_url import SCHEME
from raypose.errors import ConfigError
from raypose.k8s.manifest import GPU, Finding, Group, Manifest, at, items, quantity
from raypose.k8s.mounted import ConfigMaps
from raypose.tune.checks import sweep_of
from raypose.tune.schema import SweepConfig

_CACHE_VARIABLE = "RAYPOSE_CACHE_DIR"


def check_files(manifest: Manifest, files: ConfigMaps) -> Iterator[Finding]:
    """`config-file`, `run-config` and what follows from them, for every `raypose train` and `raypose tune` of a job."""
    job = manifest.job
    if job is None or manifest.cluster is None:
        return
    head, *workers = manifest.groups()
    try:
        commands = list(files.commands(head, str(job.get("entrypoint") or "")))
    except ValueError:
        return  # told as `entrypoint`
    for words in commands:
        if words[:2] not in (["raypose", "train"], ["raypose", "tune"]):
            continue
        for path in (word for word in words[2:] if word.endswith((".yaml", ".yml")) and "=" not in word):
            text = files.text(head, path)
            if text is None:
                yield Finding("config-file", manifest.place, f"{path} comes from no config map that the head mounts")
            elif words[1] == "train":
                yield from _check_run_file(text, path, words[2:], manifest, head, workers)
            else:
                yield from _check_sweep(text, path, manifest, head, workers, files)


def _check_sweep(
    text: str, path: str, manifest: Manifest, head: Group, workers: list[Group], files: ConfigMaps
) -> Iterator[Finding]:
    try:
        config, places = parse_placed(SweepConfig, text, path)
        base_path = posixpath.normpath(PurePosixPath(path).parent / config.base)
        base = files.text(head, base_path)
        if base is None:
            yield Finding(
                "config-file", manifest.place, f"{path} names base {config.base}, which no config map has there"
            )
            return
        sweep = sweep_of(config, parse_config(base, base_path), places, path)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("sweep-config", manifest.place, problem)
        return
    # Trials write to the sweep's storage, wherever the base by itself would.
    trial = sweep.base.model_copy(update={"storage": config.storage})
    yield from _check_run(trial, base_path, manifest, head, workers)


def _check_run_file(
    text: str, path: str, words: list[str], manifest: Manifest, head: Group, workers: list[Group]
) -> Iterator[Finding]:
    # What a shell will put in is not known here.
    settings = [word for word in words if "=" in word and not word.startswith("-") and not {"$", "`"} & set(word)]
    try:
        config = parse_config(text, path, settings)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("run-config", manifest.place, problem)
        return
    yield from _check_run(config, path, manifest, head, workers)


def _check_run(
    config: RunConfig, path: str, manifest: Manifest, head: Group, workers: list[Group]
) -> Iterator[Finding]:
    for place, key in ((config.storage, "storage"), (config.data.train, "data.train"), (config.data.val, "data.val")):
        yield from _check_place(place, key, manifest, head, workers)
    yield from _check_fit(config, manifest, workers)
    if config.telemetry.prometheus_port is not None and config.telemetry.prometheus_host == "127.0.0.1":
        yield Finding("metrics-host", manifest.place, f"{path}: set telemetry.prometheus_host to 0.0.0.0 to be scraped")
    if config.data.train.startswith(SCHEME):
        for group in workers:
            yield from _check_cache(config, group)


def _check_place(place: str, key: str, manifest: Manifest, head: Group, workers: list[Group]) -> Iterator[Finding]:
    if place.startswith(SCHEME):
        return
    for group in (head, *workers):
        claims = {volume.get("name") for volume in items(group.pod.get("volumes")) if "persistentVolumeClaim" in volume}
        mounts = [mount for mount in items(group.ray_container.get("volumeMounts")) if mount.get("name") in claims]
        if not any(f"{place}/".startswith(f"{str(mount.get('mountPath')).rstrip('/')}/") for mount in mounts):
            yield Finding("durable-place", group.place, f"{key} {place} goes with the pod; use s3:// or a claim")


def _check_fit(config: RunConfig, manifest: Manifest, workers: list[Group]) -> Iterator[Finding]:
    cpus = config.scaling.cpus_per_worker or 1.0
    if config.scaling.device == "cuda" and not any(group.limit(GPU) for group in workers):
        yield Finding("gpu-present", manifest.place, "scaling.device is cuda, but no group of workers has a GPU")
    room = 0
    for group in workers:
        here = int(group.limit("cpu") // cpus)
        if config.scaling.device == "cuda":
            here = min(here, int(group.limit(GPU)))
        room += here * int(group.spec.get("maxReplicas", 0))
    if room < config.scaling.min_workers:
        yield Finding(
            "workers-fit",
            manifest.place,
            f"scaling asks for {config.scaling.min_workers} workers of {cpus:g} CPUs; the pods have room for {room}",
        )


def _check_cache(config: RunConfig, group: Group) -> Iterator[Finding]:
    folder = config.data.cache_dir or next(
        (str(entry.get("value")) for name, entry in group.environment() if name == _CACHE_VARIABLE), ""
    )
    volume = next(
        (
            volume
            for mount in items(group.ray_container.get("volumeMounts"))
            if mount.get("mountPath") == folder
            for volume in items(group.pod.get("volumes"))
            if volume.get("name") == mount.get("name")
        ),
        None,
    )
    if volume is None:
        yield Finding("cache-volume", group.place, f"set {_CACHE_VARIABLE} to a mounted volume for shards")
        return
    wanted_bytes = config.data.cache_bytes
    limit_bytes = quantity(at(volume, "emptyDir", "sizeLimit"))
    if limit_bytes and wanted_bytes > limit_bytes:
        yield Finding(
            "cache-fits",
            group.place,
            f"data.cache_bytes is {wanted_bytes / 2**30:.0f}Gi, its volume {limit_bytes / 2**30:.0f}Gi: evicted",
        )
