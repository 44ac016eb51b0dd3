"""What editors read: the JSON Schema of configs, made from the registries and the schema of configs."""

from __future__ import annotations

from kd_core.editors.schema import config_schema, custom_tags

__all__ = ["config_schema", "custom_tags"]
