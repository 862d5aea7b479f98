"""The version: read by the build, and by every module that names it, so that none imports the whole package."""

__version__ = "0.1.0"
