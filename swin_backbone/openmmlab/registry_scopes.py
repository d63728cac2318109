"""Our classes under every package's scope: ``mmdet.SwinBackbone`` in mmdet's own registry, too.

mmengine looks in a package's registry, and then in its own, for a name without a scope. For one
with the package's scope it looks in the package's registry only. So ours are put into these as
well: into those that are there, and into each that is made later.
"""

from __future__ import annotations

from mmengine import registry as registries
from mmengine.registry import Registry

from .mmengine_internals import tell_of_children


def join_scopes() -> None:
    """Register what this package has registered with mmengine in the registries of all packages."""
    for registry in vars(registries).values():
        if not isinstance(registry, Registry):
            continue
        ours = {
            name: registered
            for name, registered in registry.module_dict.items()
            if registered.__module__.split(".")[0] == __name__.split(".")[0]
        }
        if ours:
            for child in registry.children.values():
                _register(ours, child)
            _register_later(ours, registry)


def _register(ours: dict[str, type], child: Registry) -> None:
    for name, registered in ours.items():
        child.register_module(name=name, module=registered, force=True)


def _register_later(ours: dict[str, type], registry: Registry) -> None:
    tell_of_children(registry, lambda child: _register(ours, child))
