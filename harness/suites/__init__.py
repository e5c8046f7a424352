"""What is benchmarked: suites as data, beside the YAML files that ship with the package.

It may import `storage` and the zoo's registry, and never torch. Begin with `suite`, the record and its reader; `selection` is a
part of a suite, `versions` starts the next version. The zoo learns a suite's models through `model_names`, an entry point.
"""

from __future__ import annotations


def model_names(suite: str) -> list[str]:
    """Return the names of the models of a suite (its name, or its file): substitutes and targets.

    Raises:
        UserError: there is no such suite, or its file is malformed.
    """
    from harness.suites.suite import load

    return list(load(suite).model_names)
