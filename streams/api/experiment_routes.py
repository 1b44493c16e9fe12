"""The experiments: what runs, and what it has shown so far."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path

from store.experiments import ExperimentStore
from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.experiment_report import UnknownExperiment, report_of, summary

SUMMARY = {
    "name": "fewer-alike",
    "mode": "split",
    "started_at": "2026-03-01T08:00:00+00:00",
    "stopped_at": None,
}
DIFFERENCE = {"value": 0.009, "low": 0.001, "high": 0.017, "is_clear": True}
MEASURE = {
    "measure": "clicked",
    "words": "clicked in a list",
    "users": 1_890,
    "value": 0.378,
    "low": 0.3647,
    "high": 0.3915,
}
REPORT = SUMMARY | {
    "traffic": 0.5,
    "variants": [
        {
            "name": "as-it-is",
            "weight": 1.0,
            "users": 5_010,
            "expected_users": 5_005.0,
            "lists": 31_200,
            "clicks": 4_410,
            "measures": [MEASURE | {"users": 1_850, "value": 0.369, "low": 0.356, "high": 0.383, "difference": None}],
        },
        {
            "name": "diverse",
            "weight": 1.0,
            "users": 5_000,
            "expected_users": 5_005.0,
            "lists": 31_050,
            "clicks": 4_702,
            "measures": [MEASURE | {"difference": DIFFERENCE}],
        },
    ],
    "split": {"p": 0.92, "is_off": False},
    "warnings": [],
}


def experiment_routes(experiments: ExperimentStore, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=f"{PREFIX}/experiments", tags=["operation"], dependencies=[access.needs("admin")])

    @routes.get("", summary="The experiments", responses=answers({"running": "fewer-alike", "experiments": [SUMMARY]}))
    def all_experiments() -> dict[str, Any]:
        """The one that was started last comes first; `running` names the one that runs."""
        told = [summary(row) for row in experiments.all()]
        running = next((one["name"] for one in told if one["stopped_at"] is None), None)
        return {"running": running, "experiments": told}

    @routes.get("/{name}", summary="What an experiment has shown", responses=answers(REPORT))
    def report(
        name: Annotated[str, Path(max_length=64, openapi_examples={"one": {"value": "fewer-alike"}})],
    ) -> dict[str, Any]:
        """Of each variant, the share of its users that did something at least once, with a 95 % interval, and the
        difference to the first variant; or, of interleaved lists, which variant's items got more of a user's clicks.
        `warnings` come first to whoever reads it."""
        try:
            return report_of(experiments, name)
        except UnknownExperiment as unknown:
            raise HTTPException(404, str(unknown)) from unknown

    return routes
