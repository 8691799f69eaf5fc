"""The section of the settings that says how stages run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0)]
TIME_LIMITS_S = {"prepare": 600.0, "infer": 1800.0, "compose": 600.0, "deliver": 900.0, "recompose": 600.0, "tell": 600.0}


class Section(BaseModel):
    """One table of the settings file: fixed once read, and a word it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkersSection(Section):
    """How stages run.

    devices           "auto", "cuda", "cuda:0", "cpu"; one process each
    precision         of networks: "float32", the same numbers everywhere; "auto", half precision on the devices that have it in
                      hardware; "float16", half precision or an error. What was used is recorded with each result
    engine            of networks on a processor: "fastest", OpenVINO where it is installed, gives the same and is faster, which is
                      found out when a model is first loaded on a machine and takes some seconds; "torch"
    memory_budget_gb  what models kept warm may take on a device (default: half of a GPU's memory, a quarter of the host's)
    time_limit_s      bounds a stage absolutely, whatever its heartbeat says
    stall_s           a model that shows no progress for so long hangs
    """

    work_dir: Path | None = None
    devices: tuple[str, ...] = ("auto",)
    precision: Literal["float32", "auto", "float16"] = "float32"
    engine: Literal["torch", "fastest"] = "fastest"
    memory_budget_gb: float | None = Field(default=None, gt=0)
    concurrency_cpu: int = Field(default=1, ge=1)
    concurrency_io: int = Field(default=1, ge=1)
    threads: int = Field(default=0, ge=0)
    lease_s: Seconds = 8
    renew_s: Seconds = 2
    stall_s: Seconds = 600
    max_attempts: int = Field(default=3, ge=1)
    time_limit_s: Mapping[str, Seconds] = Field(default_factory=lambda: dict(TIME_LIMITS_S))

    @field_validator("time_limit_s")
    @classmethod
    def _every_stage_has_a_limit(cls, given: Mapping[str, float]) -> Mapping[str, float]:
        if unknown := set(given) - set(TIME_LIMITS_S):
            raise ValueError(f"no stage is called {', '.join(sorted(unknown))}; stages are {', '.join(TIME_LIMITS_S)}")
        return TIME_LIMITS_S | dict(given)

    @model_validator(mode="after")
    def _a_lease_outlives_its_renewal(self) -> WorkersSection:
        if self.lease_s <= self.renew_s:
            raise ValueError("lease_s must be longer than renew_s, or every lease runs out between two renewals")
        return self
