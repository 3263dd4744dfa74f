"""An ablation as data: a base recipe, variants that change it, columns to report.

Read by ``python -m shotstream_distill ablate``; the committed tables are the JSON files beside this
one. Nothing here trains: a table is checked whole when it is read, so a variant that would not run
fails before the first one has cost anything.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shotstream_rt.errors import ConfigError

from ..common.config_json import build, read_named, require
from ..paper.run_config import RunConfig

TABLES = Path(__file__).resolve().parent

Recipe = Literal["paper", "causal", "causal-dmd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One line of a table.

    Attributes:
        name: of the line.
        recipe: ``paper`` runs the stages of the base; ``causal`` trains causally from the start,
            then distils trajectories; ``causal-dmd`` goes on with a teacher and intra-shot DMD.
        changes: values by dotted path in the base, stages by name (``stages.ode.batch``).
        drop: stages left out; what built on one builds on what that one built on.
        shares: shares of the time by stage that replace the table's.
    """

    name: str
    recipe: Recipe = "paper"
    changes: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationTable:
    """A whole table.

    Attributes:
        name: of the table.
        title: headline.
        base: preset name or JSON file of the base run.
        shares: share of the time each stage gets, by stage; those of a variant add up to 1.
        columns: figures reported, names of ``COLUMNS``.
        variants: in order.
        missing: variants of the paper's table that cannot be trained here, with the reason.
    """

    name: str
    title: str
    base: str
    shares: Mapping[str, float]
    columns: tuple[str, ...]
    variants: tuple[Variant, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what types cannot tell."""
        names = [variant.name for variant in self.variants]
        require(len(names) > 1, "variants", names, "at least two")
        require(len(set(names)) == len(names), "variants", names, "different names")
        wrong = [c for c in self.columns if c not in COLUMNS]
        require(not wrong, "columns", wrong, "names among " + ", ".join(COLUMNS))

    @classmethod
    def read(cls, name: str) -> AblationTable:
        """Read a committed table by name, or a JSON file by path; every variant is checked.

        Raises:
            ConfigError: no such table, or one that is not valid.
        """
        files = [path for path in TABLES.glob("*.json") if path.stem != "base"]
        path, data = read_named(name, files, "table")
        table = build(cls, {"name": path.stem, **data}, path.stem)
        for variant in table.variants:
            table.config(variant)
            if abs(sum(table.time_shares(variant).values()) - 1) > 1e-6:
                raise ConfigError(f"{path.stem}: shares of {variant.name!r} do not add up to 1")
        return table

    def base_config(self) -> dict[str, Any]:
        """Return the base run as plain JSON types."""
        beside = TABLES / f"{self.base}.json"
        return RunConfig.read(str(beside) if beside.is_file() else self.base).to_dict()

    def time_shares(self, variant: Variant) -> dict[str, float]:
        """Return each stage's share of a variant's time."""
        if variant.shares:
            return dict(variant.shares)
        return {n: s for n, s in self.shares.items() if n not in variant.drop}

    def config(self, variant: Variant, amounts: Mapping[str, int] | None = None) -> RunConfig:
        """Return the run of a variant.

        Args:
            variant: one of this table's.
            amounts: steps (or trajectories) of each stage; default: the base's.

        Raises:
            ConfigError: a path that does not exist, a value out of range.
        """
        data = copy.deepcopy(self.base_config())
        for path, value in variant.changes.items():
            _change(data, path, value, f"{self.name}.{variant.name}")
        for name in variant.drop:
            _drop(data, name, f"{self.name}.{variant.name}")
        for stage in data["stages"]:
            if amounts is not None:
                key = "pairs" if stage["kind"] == "ode_pairs" else "steps"
                stage[key] = amounts[stage["name"]]
        data["name"] = f"{self.name}-{variant.name}"
        return RunConfig.from_dict(data)


def _change(data: dict[str, Any], path: str, value: Any, where: str) -> None:
    parts = path.split(".")
    place: Any = data
    for part in parts[:-1]:
        if isinstance(place, list):
            place = next((stage for stage in place if stage["name"] == part), None)
        else:
            place = place.get(part) if isinstance(place, dict) else None
        if place is None:
            raise ConfigError(f"{where}: no {part!r} on the path {path!r} of the base")
    if not isinstance(place, dict) or parts[-1] not in place:
        raise ConfigError(f"{where}: no {parts[-1]!r} on the path {path!r} of the base")
    place[parts[-1]] = value


def _drop(data: dict[str, Any], name: str, where: str) -> None:
    gone = next((stage for stage in data["stages"] if stage["name"] == name), None)
    if gone is None:
        raise ConfigError(f"{where}: no stage {name!r} to drop")
    data["stages"] = [stage for stage in data["stages"] if stage is not gone]
    for stage in data["stages"]:
        if stage.get("start") == name:
            stage["start"] = gone.get("start", "")


COLUMNS: dict[str, tuple[str, ...]] = {
    "intra_subject": ("means", "intra_subject"),
    "intra_background": ("means", "intra_background"),
    "semantic": ("pairs", "semantic"),
    "inter_subject": ("pairs", "subject"),
    "inter_background": ("pairs", "background"),
    "cut_accuracy": ("cuts", "accuracy"),
    "adherence": ("means", "adherence"),
    "clarity": ("means", "clarity"),
    "dynamic": ("means", "dynamic"),
    "jitter": ("means", "jitter"),
    "species": ("scores", "species"),
    "color": ("scores", "color"),
    "returns": ("returns", "right"),
    "last_adherence": ("by_shot", "-1", "adherence"),
    "last_clarity": ("by_shot", "-1", "clarity"),
    "drift": ("drift", "adherence"),
    "tint": ("tint", "given"),
    "tint_own": ("tint", "own"),
    "tint_absent": ("tint", "absent"),
    "hue": ("hue", "given"),
}
"""Reported figures: where an evaluation's report holds them."""


def column(report: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """Return a figure of a report with its interval, ``None`` where it was not measured."""
    place: Any = report
    path = COLUMNS[name]
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place.get(part, {})
        if place == {}:
            return None
    if path[0] in ("tint", "hue"):
        low, high = report[path[0]]["intervals"][path[1]]
        return {"value": place, "low": low, "high": high, "n": report[path[0]]["n"]}
    return {key: place[key] for key in ("value", "low", "high", "n")}
