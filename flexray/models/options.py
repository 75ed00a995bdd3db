"""What the config says about the model."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Model:
    """Which pretrained model, and how it is loaded."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    path: str = "tiny"
    """`tiny` (built in), a folder saved by transformers, or a hub id."""
    revision: str | None = None
    """Which commit, branch or tag of a hub id."""
    family: str = "auto"
    """How the model is laid out: `auto`, a name of `flexray list families`, or a .py file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen backbone; what is trained keeps float32 masters."""
    trust_remote_code: bool = False
    """Whether code that lies with the model may run."""
