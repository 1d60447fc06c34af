"""The sections of the configuration whose keys are ours: loader, optimizer, scheduler, trainer, evaluation.

Each model is the one statement of its keys, their types, defaults and meaning; `cfg/default.yaml` and the
JSON schema are held to it by tests. The other sections (net, loss, dataset) get their keys from the
signatures of registry entries.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic import Field as Key

MODES = ("train", "val", "test")

_PRECISIONS: dict[Any, Any] = {
    **dict.fromkeys((32, "32", "32-true", "fp32"), 32),
    **dict.fromkeys((16, "16", "16-mixed", "fp16"), 16),
    **dict.fromkeys(("bf16", "bf16-mixed"), "bf16"),
}


def _precision(value: Any) -> Any:
    return value if isinstance(value, (bool, float)) else _PRECISIONS.get(value, value)


def _zero_is_off(value: float | None) -> float | None:
    return value or None


def _null_is_one(value: Any) -> Any:
    return 1 if value is None else value


def _as_list(value: list[str] | str | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _as_names(value: list[str] | str | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


def _switch(value: Any) -> Any:
    """`true` turns a feature on with its defaults, `false` off."""
    return {} if value is True else None if value is False else value


Weight = Annotated[float, Key(allow_inf_nan=False)]
Count = Annotated[int, Key(ge=1)]
Share = Annotated[float, Key(gt=0, lt=1)]
Metres = Annotated[float, Key(gt=0)]
Names = Annotated[list[str] | str | None, AfterValidator(_as_names)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EmaSection(_Section):
    """Exponential moving average of the weights, taken after every optimizer step."""

    decay: Share = Key(0.999, description="share of the average that a step keeps")
    warmup: bool = Key(
        True, description="shorter memory at the start: (1 + n) / (10 + n) after n steps, up to decay"
    )


class SwaSection(_Section):
    """Stochastic weight averaging: the mean of the weights at the ends of the late epochs (arXiv:1803.05407)."""

    start: Annotated[float, Key(ge=0)] = Key(
        0.5, description="from where on: below 1 a share of the epochs, else a number of epochs"
    )
    lr: Annotated[float, Key(gt=0)] | None = Key(
        None, description="constant learning rate of the averaged epochs; null = as the schedule says"
    )
    anneal_epochs: Annotated[int, Key(ge=0)] = Key(
        5, description="epochs in which the rate goes over to lr, by a cosine"
    )
    bn_batches: Count | None = Key(
        200, description="training batches for the batch-norm statistics of the mean; null = all"
    )


class StoppingSection(_Section):
    """Early stopping: end the run when a number of the validation does not improve any more."""

    patience: Count = Key(5, description="validations without improvement until the run ends")
    min_delta: Annotated[float, Key(ge=0)] = Key(0.0, description="smallest change that is an improvement")
    monitor: str | None = Key(None, description="what is watched, as trainer.monitor; null = the same")


class CompileSection(_Section):
    """torch.compile of each network; the options are torch's."""

    backend: str = Key("inductor", description="compiler; torch._dynamo.list_backends() lists them")
    mode: str | None = Key(None, description="max-autotune-no-cudagraphs, lite, ...; null = torch's choice")
    dynamic: bool | None = Key(None, description="sizes may vary; null = torch finds out")
    fullgraph: bool = Key(False, description="fail where a network cannot be compiled in one piece")


class TrainerSection(_Section):
    """How long, how precisely, and what is written down."""

    max_epochs: Count = Key(description="length of the training, in passes over the training data")
    resume_training: bool = Key(
        True, description="continue the run found in the folder; false = refuse a folder that holds a run"
    )
    load_ckpt: str | None = Key(None, description="checkpoint with initial weights, for a new run")
    monitor: str = Key(
        "AbsRel",
        description="what `best` is chosen by: MAE, RMSE, LogSI, AbsRel, Acc, loss or loss_<name>",
    )
    min_depth: float = Key(0.1, description="depth of disparity 1, in units of the 0.1 stereo baseline; > 0")
    max_depth: Annotated[float | None, AfterValidator(_zero_is_off)] = Key(
        100.0, description="depth of disparity 0, in the same units; null or 0 = infinitely far"
    )
    precision: Annotated[
        Literal[32, 16, "bf16"],
        BeforeValidator(_precision),
        WithJsonSchema({"enum": [*_PRECISIONS]}),
    ] = Key(32, description="bits of the networks: 32, 16 (fp16, GPU only) or bf16; geometry is always in 32")
    gradient_clip_val: Annotated[Annotated[float, Key(ge=0)] | None, AfterValidator(_zero_is_off)] = Key(
        None, description="largest norm of the gradient; null or 0 = no clipping"
    )
    accumulate_grad_batches: Annotated[Count, BeforeValidator(_null_is_one)] = Key(
        1, description="batches per optimizer step"
    )
    limit_train_batches: Count | None = Key(None, description="training batches per epoch; null = all")
    limit_val_batches: Annotated[int, Key(ge=0)] = Key(
        200, description="batches per validation; 0 = no validation"
    )
    save_every_n_steps: Count | None = Key(
        None, description="optimizer steps between saves of `last`; null = after every epoch only"
    )
    save_every_minutes: Annotated[float, Key(gt=0)] | None = Key(
        None, description="minutes between saves of `last`, by the clock of the main process; null = no clock"
    )
    save_async: bool = Key(
        False, description="write checkpoints beside the training; takes one more copy of them in memory"
    )
    on_save_error: Literal["stop", "continue"] = Key(
        "stop",
        description="when a checkpoint cannot be written: stop, or warn and continue with the older one",
    )
    log_every_n_steps: Count = Key(100, description="optimizer steps between points of the training curves")
    log_images: bool = Key(True, description="send pictures to the trackers, once per epoch")
    log_grad_norm: bool = Key(False, description="track the gradient norm of each network")
    trackers: Annotated[list[str] | str | None, AfterValidator(_as_list)] = Key(
        ["tensorboard"], description="where curves go: names of Accelerate trackers; [] = nowhere"
    )
    sync_batchnorm: bool = Key(
        True, description="batch-norm statistics over the global batch of all processes"
    )
    channels_last: bool = Key(True, description="memory layout of the networks; faster on most GPUs")
    benchmark: bool = Key(
        False, description="let cuDNN time its algorithms first; faster, but not repeatable bit by bit"
    )
    deterministic: bool = Key(
        False, description="only deterministic algorithms, where torch has them; slower"
    )
    detect_anomaly: bool = Key(False, description="find the operation that made a gradient NaN; very slow")
    num_threads: Count | None = Key(
        None, description="CPU threads of torch per process; null = torch's choice"
    )
    legacy_sampling: bool = Key(
        False,
        description="sample up to half a pixel off, as earlier code did and its weights expect",
    )
    nonfinite: Literal["stop", "skip"] = Key(
        "stop", description="when loss or gradient is NaN or infinite: stop, or skip the optimizer step"
    )
    nonfinite_limit: Annotated[int, Key(ge=0)] = Key(
        10, description="skipped steps in one epoch that are accepted; one more stops the run"
    )
    timeout_minutes: Annotated[float, Key(gt=0)] = Key(
        15.0, description="how long processes wait for one that has fallen silent"
    )
    freeze: Annotated[list[str] | str | None, AfterValidator(_as_list)] = Key(
        [], description="parts that are not trained: networks (pose), modules (depth.encoder) or patterns"
    )
    frozen_batchnorm: bool = Key(
        False, description="batch norm uses and keeps the statistics that it starts with, and learns nothing"
    )
    ema: Annotated[EmaSection | None, BeforeValidator(_switch)] = Key(
        None, description="moving average of the weights, which is validated and becomes `best`"
    )
    swa: Annotated[SwaSection | None, BeforeValidator(_switch)] = Key(
        None, description="mean weights of the late epochs, validated and `best` from then on"
    )
    early_stopping: Annotated[StoppingSection | None, BeforeValidator(_switch)] = Key(
        None, description="end the run when a number of the validation stalls"
    )
    compile: Annotated[CompileSection | None, BeforeValidator(_switch)] = Key(
        None, description="compile the networks with torch.compile"
    )
    gradient_checkpointing: bool = Key(
        False, description="compute activations again in the backward pass: less memory, slower"
    )


class LoaderSection(_Section):
    """How batches are made; `train`, `val`, `test` below it override single keys."""

    batch_size: Count = Key(
        8, description="GLOBAL batch size, split over the processes, which must divide it"
    )
    num_workers: Annotated[int, Key(ge=0)] = Key(
        0, description="loading processes per training process; 0 = none"
    )
    shuffle: bool | None = Key(
        None, description="new order every epoch; null = true for train, false for val and test"
    )
    drop_last: bool | None = Key(
        None, description="leave out an incomplete last batch; null = true for train, false for val and test"
    )
    pin_memory: bool = Key(
        True, description="load into page-locked memory, from where copies to a GPU are fast"
    )
    persistent_workers: bool | None = Key(
        None, description="keep workers alive between epochs; null = true where there are workers"
    )
    prefetch_factor: Count | None = Key(
        None, description="batches loaded ahead by each worker; null = torch's choice (2)"
    )
    timeout: Annotated[float, Key(ge=0)] = Key(
        0.0, description="seconds to wait for a batch from a worker; 0 = for ever"
    )


class OptimizerSection(_Section):
    """One optimizer over all networks; other keys are arguments of the optimizer itself, checked against
    it."""

    type: str = Key(
        description="any optimizer name of timm: adam, adamw, sgd (Nesterov), lamb, ...; alias: opt"
    )
    lr: Annotated[float, Key(ge=0)] = Key(1e-4, description="learning rate at the start")
    backbone_lr: Annotated[float, Key(ge=0)] | None = Key(
        None, description="learning rate of the encoders; null = lr (arXiv:2307.10713)"
    )
    group_lr: dict[str, Annotated[float, Key(ge=0)]] | None = Key(
        None, description="learning rates of parts, by network (pose) or pattern (depth.encoder.*); null = lr"
    )
    frozen_bn: bool = Key(False, description="do not train scales and shifts of batch norm")
    weight_decay: Annotated[float, Key(ge=0)] = Key(
        0.0, description="not applied to biases and 1-D parameters"
    )


class SchedulerSection(_Section):
    """Learning rate over the epochs, stepped once per epoch; other keys are arguments of the torch class."""

    type: str = Key(description="steplr, exp, cos, cos_warm, plateau or linear")
    monitor: str | None = Key(
        None, description="what plateau watches, as in trainer.monitor; needed by plateau only"
    )


class EvaluationSection(_Section):
    """Protocol of `evaluate`, whose options win over it. Training does not use it."""

    metrics: Names = Key(
        None, description="metric sets, one or several: eigen, benchmark, pointcloud, ibims; null = eigen"
    )
    alignment: Names = Key(
        None,
        description="one or several, scored side by side: median, stereo, none, lsqr_disp, lsqr_depth; null = stereo"
        " for networks trained with a stereo pair, else median",
    )
    crop: str | None = Key(
        None, description="garg, eigen, nyu or none; null = the customary one of the data set"
    )
    min_depth: Metres | None = Key(None, description="score truths above, metres; null = 0.001")
    max_depth: Metres | None = Key(None, description="score truths below, metres; null = 80")
    flip: bool | None = Key(
        None, description="blend with the prediction for the mirrored image (arXiv:1609.03677); null = false"
    )


SECTIONS: dict[str, type[_Section]] = {
    "loader": LoaderSection,
    "optimizer": OptimizerSection,
    "scheduler": SchedulerSection,
    "trainer": TrainerSection,
    "evaluation": EvaluationSection,
}
SECTION_NAMES = ("net", "loss", "dataset", *SECTIONS)
