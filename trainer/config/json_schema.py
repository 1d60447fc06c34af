"""The JSON schema of the configuration, for editors: completion, hover texts and red underlines in cfg/.

It describes files, not merged configurations: nothing is required, because a file may build on another, and null is
allowed where it removes a setting of that. `load_config` checks more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from models_zoo.registry import Registry
from trainer.config.fields import REQUIRED, Field, Fields, fields_of_model
from trainer.config.optimizers import OFTEN_USED, SCHEDULERS, scheduler_fields
from trainer.config.resolve import LOSS_EXTRA, SET_BY_RUN, Registries, entry_fields, summary_of
from trainer.config.sections import MODES, SECTIONS
from trainer.runtime.rundir import plain

JsonSchema = dict[str, Any]


def json_schema(registries: Registries | None = None) -> JsonSchema:
    """Build the schema from the sections and the signatures of all registry entries."""
    networks, losses, datasets = registries or Registries.installed()
    own = {name: fields_of_model(model) for name, model in SECTIONS.items()}
    schedules = [scheduler_fields(cls) for cls in SCHEDULERS.values()]
    scheduler = _any_of(_properties(f, nullable=True) for f in [own["scheduler"], *schedules])
    scheduler["type"] = {**scheduler["type"], "enum": [*SCHEDULERS, None]}
    optimizer = _properties(own["optimizer"], nullable=True)
    optimizer["type"] = optimizer["opt"] = {**optimizer["type"], "examples": list(OFTEN_USED)}
    sections = {
        "net": _entries(networks, {}),
        "loss": _entries(losses, LOSS_EXTRA),
        "dataset": _with_modes(_dataset(datasets)),
        "loader": _with_modes(_properties(own["loader"])),
        "optimizer": {**_object(optimizer), "additionalProperties": True},
        "scheduler": _object(scheduler),
        "trainer": _object(_properties(own["trainer"])),
        "evaluation": _object(_properties(own["evaluation"])),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of a depth training",
        **_object({name: _nullable(section) for name, section in sections.items()}),
    }


def _dataset(registry: Registry) -> JsonSchema:
    """Collect the arguments of all datasets, because a file that changes one key need not repeat the `type`."""
    fields = [entry_fields(registry, name, without=SET_BY_RUN) for name in registry.names()]
    summaries = "; ".join(f"{name}: {summary_of(registry.get(name))}" for name in registry.names())
    kind = {"enum": registry.names(), "description": summaries}
    return {"type": kind, **_any_of(_properties(f, nullable=True) for f in fields)}


def _entries(registry: Registry, extra: Fields) -> JsonSchema:
    entries = {}
    for name in registry.names():
        entry = _object(_properties({**extra, **entry_fields(registry, name)}))
        entries[name] = {**_nullable(entry), "description": summary_of(registry.get(name))}
    return _object(entries)


def _properties(fields: Fields, *, nullable: bool = False) -> JsonSchema:
    properties = {}
    for name, field in fields.items():
        schema = _untitled(_type_schema(field))
        schema = _nullable(schema) if nullable else schema
        if field.doc:
            schema["description"] = field.doc
        if field.default is not REQUIRED:
            schema["default"] = plain(field.default)
        properties[name] = schema
    return properties


def _type_schema(field: Field) -> JsonSchema:
    if model := field.model():  # inlined: definitions would have to be at the root
        switch: JsonSchema = {"type": "boolean", "description": "true = on, with the defaults; false = off"}
        return {"anyOf": [_object(_properties(fields_of_model(model))), switch, {"type": "null"}]}
    try:
        return field.adapter().json_schema()
    except PydanticInvalidForJsonSchema:  # a type that YAML cannot express, such as a Tensor
        return {}


def _any_of(several: Iterable[JsonSchema]) -> JsonSchema:
    """Merge properties; a name with several types takes any of them, with the first description."""
    merged: JsonSchema = {}
    for properties in several:
        for name, schema in properties.items():
            if name not in merged:
                merged[name] = schema
                continue
            first = merged[name]
            alternatives = first.get("anyOf", [_bare(first)])
            fresh = [s for s in schema.get("anyOf", [_bare(schema)]) if s not in alternatives]
            if fresh:
                notes = {key: first[key] for key in ("description",) if key in first}
                merged[name] = {"anyOf": [*alternatives, *fresh], **notes}
            elif first.get("default") != schema.get("default"):
                first.pop("default", None)
    return merged


def _with_modes(properties: JsonSchema) -> JsonSchema:
    own = {name: {k: v for k, v in schema.items() if k != "default"} for name, schema in properties.items()}
    modes = {mode: {**_nullable(_object(own)), "description": f"what differs for {mode}"} for mode in MODES}
    return _object({**properties, **modes})


def _object(properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _nullable(schema: JsonSchema) -> JsonSchema:
    """Also allow null; an empty schema allows everything already."""
    if not schema:
        return schema
    alternatives = schema.get("anyOf", [_bare(schema)])
    if {"type": "null"} not in alternatives:
        alternatives = [*alternatives, {"type": "null"}]
    return {**{k: v for k, v in schema.items() if k in ("description", "default")}, "anyOf": alternatives}


def _bare(schema: JsonSchema) -> JsonSchema:
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _untitled(schema: Any) -> Any:
    """Drop pydantic's titles, which only repeat the keys."""
    if isinstance(schema, dict):
        return {k: _untitled(v) for k, v in schema.items() if k != "title" or not isinstance(v, str)}
    return [_untitled(item) for item in schema] if isinstance(schema, list) else schema
