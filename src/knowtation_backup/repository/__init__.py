"""The repository: incremental, sealed history on any sink. Its format is ``docs/reference/repository.md``."""
