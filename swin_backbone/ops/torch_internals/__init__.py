"""All that the package uses of torch and does not find in torch's documentation.

Nothing else in the package names an attribute of torch that begins with an underscore. Each such
interface is looked up and tried once (:mod:`.choosing`); where it is missing or answers otherwise
than it should, a public way takes its place, which is right if slower. docs/reliability.md has the
table.
"""

from .choosing import FALLBACKS, TESTED, describe

__all__ = ["FALLBACKS", "TESTED", "describe"]
