"""What the config says about the model."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Model:
    """path: `tiny` (built in), a folder saved by transformers, or a hub id. family: `auto`, a name of `flexray list`, or a .py file."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    path: str = "tiny"
    revision: str | None = None
    family: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
