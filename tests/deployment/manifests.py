"""`python -m tests.deployment.manifests`: write deploy/kubernetes/NAME.yaml from its values-NAME.yaml.

The objects are no part of a release of Helm: what only Helm needs is left out.
"""

from __future__ import annotations

import re
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


HELMS = re.compile(
    r"^ +(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n|^ +annotations:\n +#.*\n +checksum/.*\n", re.MULTILINE
)
"""Lines for Helm alone: it owns no objects of `kubectl apply`, and nothing computes a checksum again."""


def manifests() -> dict[Path, str]:
    """Render each file of plain manifests. Raises: ToolMissing, CalledProcessError."""
    return {
        MANIFESTS / f"{values.stem.removeprefix('values-')}.yaml": HELMS.sub("", _rendered(values))
        for values in sorted(MANIFESTS.glob("values-*.yaml"))
    }


def _rendered(values: Path) -> str:
    command: list[str | Path] = [
        helm(),
        "template",
        "bridge",
        CHART,
        *CLUSTER,
        "--namespace",
        "shop",
        "--values",
        values,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for path, text in manifests().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
