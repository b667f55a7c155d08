"""What pyproject.toml cannot say: packages that are found, and two that are mapped beside them."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["sb3_cora*"]), "sb3_cora.zoo.hyperparams", "sb3_cora.zoo.suites"])
