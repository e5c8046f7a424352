"""Carry registry.yaml, which stands at the root of the repository, inside the package `zoo` of a built wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRegistry(build_py):
    """`build_py` that also copies the registry."""

    def run(self) -> None:
        """Build, then copy, unless the package is installed in place and reads the file where it is."""
        super().run()
        if not self.editable_mode:
            shutil.copyfile(Path(__file__).parent / "registry.yaml", Path(self.build_lib) / "zoo" / "registry.yaml")


setup(cmdclass={"build_py": BuildWithRegistry})
