"""The package list: `tascnet`, and the folders conf/ and pipelines/ under names of their own.

A user's own folder called conf/ or pipelines/ then does no harm. Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tascnet", "tascnet.*"]), "tascnet_conf", "tascnet_pipelines"],
    package_dir={"tascnet_conf": "conf", "tascnet_pipelines": "pipelines"},
)
