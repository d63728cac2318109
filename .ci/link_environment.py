"""Make the packages that the core needs, and no other, available to an environment: by links.

    python .ci/link_environment.py SITE_PACKAGES REQUIREMENT [REQUIREMENT ...] [--only PATTERN ...]

Run by the Python of an environment that has them; torch alone would be gigabytes to install again.
``--only``: of all that is needed, what has such a name, as ``nvidia-*``.
"""

import argparse
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def needed(requirements):
    """By name, the distributions that are required, and what these require."""
    found, seen = {}, set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        asked = requirement.name, frozenset(requirement.extras)
        if asked in seen:
            continue
        seen.add(asked)
        distribution = found[requirement.name] = metadata.distribution(requirement.name)
        wanted = map(Requirement, distribution.requires or [])
        waiting += [one for one in wanted if applies(one.marker, requirement.extras)]
    return found


def applies(marker, extras):
    """Whether what has this marker is needed where these extras are."""
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def link(distribution, target):
    """Link everything of a distribution that lies directly in its site-packages."""
    for first in {file.parts[0] for file in distribution.files}:
        source, link = Path(distribution.locate_file(first)), target / first
        if first not in ("..", "__pycache__") and source.exists() and not link.exists():
            link.symlink_to(source)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("site_packages", type=Path)
    parser.add_argument("requirements", nargs="+")
    parser.add_argument("--only", nargs="+", default=["*"])
    arguments = parser.parse_args()
    for name, distribution in sorted(needed(arguments.requirements).items()):
        if any(fnmatch(name, pattern) for pattern in arguments.only):
            print(f"{name} {distribution.version}")
            link(distribution, arguments.site_packages)
