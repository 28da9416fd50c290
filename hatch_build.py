"""Build hook for the wheel: packs the toolkits inside stylematte_cli.

Other packages may install a `models`, an `export` or a `training` in site-packages. Ours would overwrite
theirs, and uninstalling ours would remove them.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Hook that maps each toolkit to a folder of stylematte_cli."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folders; an editable install takes them from the checkout."""
        if version == "standard":
            for name in ("models", "export", "training"):
                build_data["force_include"][name] = f"stylematte_cli/_toolkit/{name}"
