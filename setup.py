"""What pyproject.toml cannot say: ``hyperparams/`` travels in the wheel, within the package that reads it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithHyperparams(build_py):
    """Builds the packages, and copies the hyperparameters among them."""

    def run(self) -> None:
        super().run()
        # What is installed as editable reads them where they are
        if not self.editable_mode:
            self.copy_tree("hyperparams", str(Path(self.build_lib, "sb3_cora", "zoo", "hyperparams")))


setup(cmdclass={"build_py": BuildWithHyperparams})
