"""Ids in the path of a request: without NUL, which PostgreSQL takes in no text."""

from typing import Annotated

from fastapi import Path

UserId = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
ProductId = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
