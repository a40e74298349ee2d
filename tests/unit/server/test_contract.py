"""rest-api.yml says exactly what the routes do, and the event schema what is emitted."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from jupyter_events.schema import EventSchema
from parts.submissions import command

import jupyter_offload.server as package
from jupyter_offload.job import Job, State
from jupyter_offload.server.events import SCHEMA, SCHEMA_FILE
from jupyter_offload.server.handlers import HANDLERS
from jupyter_offload.service.rest.routes import PREFIX, ROUTES

CONTRACT = yaml.safe_load((Path(package.__file__).parent / "rest-api.yml").read_text())
VERBS = {"get", "put", "post", "delete", "head", "patch"}


def documented() -> set[tuple[str, str]]:
    return {(path, verb) for path, item in CONTRACT["paths"].items() for verb in item if verb in VERBS}


def shape(pattern: str) -> str:
    names = iter(["{id}", "{path}"])
    return re.sub(r"\([^)]*\)", lambda _: next(names), pattern)


def own_verbs(handler: type) -> set[str]:
    return {
        verb
        for cls in handler.__mro__
        if cls.__module__.startswith("jupyter_offload")
        for verb in VERBS & set(vars(cls))
    }


def test_routes_and_contract_agree():
    socket = {("/jobs/{id}/logs/stream", "get")}  # tornado's own GET opens the socket
    assert {(shape(pattern), verb) for pattern, logic in ROUTES for verb in own_verbs(logic)} | socket == documented()


def test_the_server_serves_the_same_routes():
    served = {
        (shape(pattern.removeprefix(PREFIX)), verb) for pattern, handler in HANDLERS for verb in own_verbs(handler)
    }
    assert served == documented()


def test_the_contract_describes_jobs_as_they_are():
    properties = CONTRACT["components"]["schemas"]["Job"]["properties"]
    assert set(Job(command("true"), "ann", "local").to_json()) == set(properties)
    assert CONTRACT["components"]["schemas"]["State"]["enum"] == [state.value for state in State] or set(
        CONTRACT["components"]["schemas"]["State"]["enum"]
    ) == {state.value for state in State}


def test_every_reference_in_the_contract_exists():
    for reference in re.findall(r"#/([\w/]+)", yaml.safe_dump(CONTRACT)):
        node = CONTRACT
        for key in reference.split("/"):
            node = node[key]


def test_the_event_schema_is_sound():
    schema = EventSchema(SCHEMA_FILE)
    assert schema.id == SCHEMA
    assert set(yaml.safe_load(SCHEMA_FILE.read_text())["properties"]["state"]["enum"]) == {
        state.value for state in State
    }
