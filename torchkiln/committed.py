"""The files that are rendered from a project's locks, and the CI matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchkiln.ci import matrix
from torchkiln.conda.spec import conda_spec
from torchkiln.dockerfile import image_facts
from torchkiln.lockfile import read_base_lock, read_environment_lock, read_variant_lock
from torchkiln.pipeline import locked_variants
from torchkiln.render import render, render_workflows

if TYPE_CHECKING:
    from torchkiln.ci import Matrix
    from torchkiln.lockfile import VariantLock
    from torchkiln.pipeline import Project


def rendered(project: Project) -> dict[str, str]:
    """Return every rendered file of the project by path, from its locks.

    A variant without a lock has none: its wheels may be out of reach from where the others are
    locked.
    """
    catalog, base = project.catalog, project.catalog.base
    base_lock = read_base_lock(project.root, base)
    variants, locks = locked_variants(project), _locks(project)
    facts = {
        variant.id: image_facts(base, variant, locks[variant.id], base_lock) for variant in variants
    }
    specs = {
        variant.id: conda_spec(variant, read_environment_lock(project.root, catalog, variant))
        for variant in variants
    }
    files = render(project.root, catalog, locks, facts, specs)
    return files | render_workflows(project.root, matrix(variants, locks, base_lock), base.python)


def ci_matrix(project: Project) -> Matrix:
    """Return the CI matrix of the locked variants."""
    base_lock = read_base_lock(project.root, project.catalog.base)
    return matrix(locked_variants(project), _locks(project), base_lock)


def _locks(project: Project) -> dict[str, VariantLock]:
    """Return the lock of each variant that has one, by the variant's id."""
    return {
        variant.id: read_variant_lock(project.root, project.catalog, variant)
        for variant in locked_variants(project)
    }
