"""Architectures that are code of the user's own: `arch: mynet.py:Net` in a registry file of the user's, never in the bundled."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from zoo.errors import UserError

_CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def placed(fields: dict[str, Any], where: str, source: Path, bundled: bool) -> dict[str, Any]:
    """Return an entry's fields with the place of its code, if it names any, and in `arch` what that code is.

    `mynet.py:Net` becomes arch `own:mynet.py-Net-<first 16 digits of the file's sha256>`, so that the code is part of what a
    model is wherever `arch` is compared or digested, and arch_file the absolute path with the name.

    Args:
        fields: what a registry file says of one entry.
        where: the entry, for messages.
        source: the registry file, whose folder relative paths start from.
        bundled: whether that is the registry of this package, which may name no code.

    Raises:
        UserError: the file is not there, the bundled registry names code, or an entry states what is made here.
    """
    arch = fields.get("arch")
    if "arch_file" in fields or (isinstance(arch, str) and arch.startswith("own:")):
        raise UserError(f"{where}.arch: name code of your own by its file and class, such as arch: mynet.py:Net")
    found = _CODE.fullmatch(arch) if isinstance(arch, str) else None
    if found is None:
        return fields
    if bundled:
        raise UserError(f"{where}.arch: only a registry file of your own may name code to run, not the one of this package")
    path = (source.parent / Path(found["file"]).expanduser()).absolute()
    if not path.is_file():
        raise UserError(f"{where}.arch: there is no file {path}; give the path of a Python file and a class in it: mynet.py:Net")
    label = re.sub(r"[^\w.-]", "_", path.name)
    return {**fields, "arch": f"own:{label}-{found['name']}-{digest(path)}", "arch_file": f"{path}:{found['name']}"}


def digest(path: Path) -> str:
    """Return the digits of a code file's sha256 that `arch` holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
