"""Make the packages that the core needs, and no other, available to an environment: by links.

    python .ci/link_environment.py SITE_PACKAGES REQUIREMENT [REQUIREMENT ...]

Run by the Python of an environment that has them; torch alone would be gigabytes to install again.
"""

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def needed(requirements):
    """The names of distributions that are required, and what these require."""
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        marker = requirement.marker
        if requirement.name in found or (marker and not marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = metadata.distribution(requirement.name)
        waiting += [Requirement(text) for text in found[requirement.name].requires or []]
    return found


def link(distribution, target):
    """Link everything of a distribution that lies directly in its site-packages."""
    for first in {file.parts[0] for file in distribution.files}:
        source, link = Path(distribution.locate_file(first)), target / first
        if first not in ("..", "__pycache__") and source.exists() and not link.exists():
            link.symlink_to(source)


if __name__ == "__main__":
    for name, distribution in sorted(needed(sys.argv[2:]).items()):
        print(f"{name} {distribution.version}")
        link(distribution, Path(sys.argv[1]))
