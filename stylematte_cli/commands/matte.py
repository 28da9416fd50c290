"""`stylematte matte`: photos and folders in, mattes out."""


def matte() -> None:
    """Matte photos and folders."""
