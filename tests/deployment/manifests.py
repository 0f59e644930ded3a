"""`python -m tests.deployment.manifests`: write deploy/kubernetes/NAME.yaml from its values-NAME.yaml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kit.go_tools import tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "durable-bridge"
MANIFESTS = ROOT / "deploy" / "kubernetes"
CLUSTER = ("--kube-version", "1.34.0")
"""Options of a rendering without a cluster: a helm that was built from its module takes it for an older one."""


def helm() -> Path:
    """Return the path of helm. Raises: ToolMissing."""
    return tool(Path(__file__).parent / "helm", "helm.sh/helm/v3/cmd/helm")


def manifests() -> dict[Path, str]:
    """Render each file of plain manifests. Raises: ToolMissing, CalledProcessError."""
    return {
        MANIFESTS / f"{values.stem.removeprefix('values-')}.yaml": subprocess.run(
            [helm(), "template", "bridge", CHART, *CLUSTER, "--namespace", "shop", "--values", values],
            capture_output=True, text=True, check=True,
        ).stdout
        for values in sorted(MANIFESTS.glob("values-*.yaml"))
    }  # fmt: skip


if __name__ == "__main__":
    for path, text in manifests().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
