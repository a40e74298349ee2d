"""Write docs/configuration.md from the schema of sites.yaml: `make docs`. With ``--check`` only say whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_offload.sites.schema import SitesConfig

TARGET = Path(__file__).with_name("configuration.md")

HEAD = """\
# Configuration: sites.yaml

<!-- Written by `make docs` from jupyter_offload/sites/schema.py: change the descriptions there. -->

A site is a named place that runs jobs. Without any file there is one, `local`: this machine, with the Python of the service. With a
file there are only the sites that it names; `{batch: {type: local}}` is this machine.

Files are read from `OFFLOAD_CONFIG` (the path of one file) and then from `sites.yaml` in each folder of the Jupyter config path
(`jupyter --paths`), nearest to the user first. They merge key by key and the nearest wins. `images`, and a `batch` of another `type`,
replace as a whole. A file farther from the user (the administrator's) can lock keys: a nearer file that sets a locked key is refused.
Unknown keys are refused; every error names file, line and key.

```yaml
default: pool
sites:
  pool:
    batch: {type: condor, collector: "cm.example.org:9618", schedd: "submit.example.org", token_file: "~/.condor/tokens.d/offload"}
    submit: {accounting_group: cms, +ProjectName: higgs}
    runtime: apptainer
    images: {science: {ref: "docker://registry.example.org/science:1", python: "3.11"}}
    mounts: ["/cvmfs:/cvmfs:ro"]
    setup: ["source /cvmfs/example.org/setup.sh"]
    policy: {images: ["docker://registry.example.org/*"], hostPath: ["/cvmfs"]}
    limits: {cpus: 8, memory: 32GiB, gpus: 4, time: 24h, queue_time: 14d}
  ce:
    batch: {type: condor-ce, collector: "ce.example.org:9619", token_file: "~/.condor/tokens.d/ce"}
    images: {science: {ref: "/cvmfs/images.example.org/science", python: "3.11"}}
locked: [sites.*.policy]
```
"""


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into the schema's definitions."""
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else node


def kind(schema: dict[str, Any], node: dict[str, Any]) -> str:
    """Name a key's type for people."""
    if "anyOf" in node:
        return " or ".join(word for item in node["anyOf"] if (word := kind(schema, item)) != "null")
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if node.get("type") == "array":
        return f"list of {kind(schema, node.get('items', {}))}"
    if node.get("type") == "object" or "$ref" in node or "oneOf" in node:
        return "mapping"
    return str(node.get("type", "value"))


def rows(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[str]:
    """Write one table row for each key of a model."""
    required = set(node.get("required", ()))
    for name, raw in node["properties"].items():
        default = (
            "required"
            if name in required
            else ""
            if raw.get("default") in (None, [], {}, "")
            else f"`{raw.get('default')}`"
        )
        if "$ref" in raw or isinstance(raw.get("default"), dict):
            default = "required" if name in required else ""
        yield f"| `{name}` | {kind(schema, raw)} | {default} | {raw.get('description', '')} |"


def document() -> str:
    """Return the whole text."""
    schema = SitesConfig.model_json_schema()
    parts = [HEAD]
    sections = [
        ("The file", "SitesConfig"), ("`sites.<name>`", "SiteConfig"), ("`batch` with `type: local`", "LocalConfig"),
        ("`batch` with `type: condor` or `condor-ce`", "CondorConfig"), ("`images.<name>`", "ImageConfig"), ("`policy`", "PolicyConfig"),
        ("`limits`", "LimitsConfig"), ("`defaults`", "DefaultsConfig"),
    ]  # fmt: skip
    for title, name in sections:
        node = schema if name == "SitesConfig" else schema["$defs"][name]
        about = "" if name == "SitesConfig" else " ".join(node.get("description", "").split())
        table = "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows(schema, node)])
        parts.append(f"\n## {title}\n\n{about + chr(10) + chr(10) if about else ''}{table}\n")
    parts.append(
        "\nSizes are Kubernetes quantities (`512MiB`, `1.5Gi`), cores too (`2`, `500m`); "
        "times are durations (`90s`, `10m`, `1h30m`, `14d`).\n"
    )
    return "".join(parts)


def main() -> int:
    """Write the file, or check it."""
    text = document()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
