"""The sections of the configuration with keys of our own: loader, optimizer, scheduler, trainer, evaluation.

The other sections (net, loss, dataset) get their keys from the signatures of registry entries.
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


def _on_or_off(value: Any) -> Any:
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _without_null(values: dict[str, float | None] | None) -> dict[str, float | None] | None:
    """Leave out what a page on top has taken away."""
    return values and {key: value for key, value in values.items() if value is not None}


def _zero_is_off(value: float | None) -> float | None:
    return value or None


def _null_is_one(value: Any) -> Any:
    return 1 if value is None else value


def _as_list(value: list[str] | str | None) -> list[str]:
    return _as_names(value) or []


def _as_names(value: list[str] | str | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


def _by_epoch(value: dict[str, Any]) -> dict[str, float]:
    """Check weights by epoch, {"0": 0.9, "15": 0.95}, and sort them; null leaves an epoch out."""
    if glued := next((key for key in value if ":" in key), None):
        raise ValueError(f"{glued!r} lacks the space after the colon, as in {{0: 0.9, 15: 0.95}}")
    given = {epoch: weight for epoch, weight in value.items() if weight is not None}
    for epoch, weight in given.items():
        if not epoch.isdecimal() or str(int(epoch)) != epoch:
            raise ValueError(f"{epoch!r} is not the number of an epoch, counted from 0, as in {{0: 0.9, 15: 0.95}}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0:
            raise ValueError(f"expected a number >= 0 from epoch {epoch} on, got {weight!r}")
    if "0" not in given:
        raise ValueError(
            f"has no weight from epoch 0 on, only from {', '.join(given) or 'none'}; add 0, as in {{0: 1}}"
        )
    return {epoch: float(given[epoch]) for epoch in sorted(given, key=int)}


def _switch(value: Any) -> Any:
    """`true` turns a feature on with its defaults, `false` off."""
    return {} if value is True else None if value is False else value


Count = Annotated[int, Key(ge=1)]
Side = Annotated[int, Key(ge=64, le=8192)]
Workers = Annotated[int, Key(ge=0, le=1024)]
Share = Annotated[float, Key(gt=0, lt=1)]
Whole = Annotated[int, Key(ge=0)]
Positive = Annotated[float, Key(gt=0)]
NotNegative = Annotated[float, Key(ge=0)]
ByEpoch = Annotated[
    dict[str, Any],
    AfterValidator(_by_epoch),
    WithJsonSchema(
        {
            "type": "object",
            "patternProperties": {"^[0-9]+$": {"type": ["number", "null"], "minimum": 0}},
            "additionalProperties": False,
        }
    ),
]
Names = Annotated[list[str] | str | None, AfterValidator(_as_list)]
OptionalNames = Annotated[list[str] | str | None, AfterValidator(_as_names)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EmaSection(_Section):
    """Exponential moving average of the weights, taken after every optimizer step."""

    decay: Share = Key(0.999, description="share of the average that a step keeps")
    warmup: bool = Key(True, description="start with a decay of (1 + n) / (10 + n) after n steps")


class SwaSection(_Section):
    """Stochastic weight averaging: the mean of the weights at the ends of the late epochs (arXiv:1803.05407)."""

    start: NotNegative = Key(0.5, description="first averaged epoch; below 1 = a share of all epochs")
    lr: Positive | None = Key(None, description="learning rate of these epochs; null = of the schedule")
    anneal_epochs: Whole = Key(5, description="epochs of a cosine to lr")
    bn_batches: Count | None = Key(200, description="batches for its batch-norm statistics; null = all")


class StoppingSection(_Section):
    """Early stopping: end the run when a number of the validation does not improve any more."""

    patience: Count = Key(5, description="validations without improvement until the run ends")
    min_delta: NotNegative = Key(0.0, description="smallest change that is an improvement")
    monitor: str | None = Key(None, description="number to watch; null = trainer.monitor")


class CompileSection(_Section):
    """torch.compile of each network; the options are torch's."""

    backend: str = Key("inductor", description="compiler; torch._dynamo.list_backends() lists them")
    mode: str | None = Key(None, description="max-autotune-no-cudagraphs, ...; null = torch's choice")
    dynamic: bool | None = Key(None, description="sizes may vary; null = torch finds out")
    fullgraph: bool = Key(False, description="fail unless a network compiles in one piece")


class AspectSection(_Section):
    """Training batches are cropped to random shapes and resized to nearly one area (arXiv:2307.10713)."""

    prob: Annotated[float, Key(ge=0, le=1)] = Key(0.7, description="share of the batches that are cropped")
    min: Annotated[float, Key(gt=0, le=1)] = Key(0.5, description="shortest side of a crop, as a share of the images")
    max: Annotated[float, Key(gt=0, le=1)] = Key(1.0, description="longest side of a crop, likewise")
    ref_size: tuple[Side, Side] = Key(
        (640, 384), description="[width, height], pixels: most area of a resized batch, 0.8 of it of a cropped one"
    )


class TrainerSection(_Section):
    """How long, how precisely, and what is written down."""

    max_epochs: Count = Key(le=1_000_000, description="length of the training, in passes over the training data")
    max_minutes: Positive | None = Key(
        None, description="end the run after so many minutes of training, over all its starts; null = no limit"
    )
    resume_training: bool = Key(True, description="continue a run in the folder; false = refuse")
    load_ckpt: str | None = Key(None, description="checkpoint with initial weights, for a new run")
    monitor: str = Key(
        "AbsRel", description="number that selects `best`: MAE, RMSE, LogSI, AbsRel, Acc, loss or loss_<name>"
    )
    min_depth: float = Key(0.1, description="depth of disparity 1, in units of the 0.1 stereo baseline; > 0")
    max_depth: Annotated[float | None, AfterValidator(_zero_is_off)] = Key(
        100.0, description="depth of disparity 0, same units; null or 0 = infinite"
    )
    precision: Annotated[
        Literal[32, 16, "bf16"], BeforeValidator(_precision), WithJsonSchema({"enum": [*_PRECISIONS]})
    ] = Key(32, description="bits of the networks: 32, 16 (fp16, GPU only) or bf16; geometry is always in 32")
    matmul_precision: Literal["highest", "high", "medium"] | None = Key(
        None, description="of products of 32 bit on CUDA: highest = 32 bit, high, medium = TF32 or less; null = highest"
    )
    gradient_clip_val: Annotated[NotNegative | None, AfterValidator(_zero_is_off)] = Key(
        None, description="largest gradient norm; null or 0 = any"
    )
    accumulate_grad_batches: Annotated[Count, BeforeValidator(_null_is_one)] = Key(
        1, description="batches per optimizer step"
    )
    micro_batch_size: Count | None = Key(
        None, description="most items that a process computes at once: its share of a batch in equal parts; null = all"
    )
    gradient_compression: Literal["bf16", "fp16"] | None = Key(
        None, description="type in which processes exchange gradients; null = 32 bit. Without effect on one process"
    )
    limit_train_batches: Count | None = Key(None, description="training batches per epoch; null = all")
    limit_val_batches: Whole = Key(200, description="batches per validation; 0 = none")
    save_every_n_steps: Count | None = Key(None, description="steps between saves of `last`; null = every epoch only")
    save_every_minutes: Positive | None = Key(
        None, description="minutes between saves of `last`; null = every epoch only"
    )
    save_async: bool = Key(True, description="write `last` in the background; needs memory for a copy")
    on_save_error: Literal["stop", "continue"] = Key(
        "stop", description="on failure to write a checkpoint: stop, or warn and keep the older one"
    )
    log_every_n_steps: Count = Key(100, description="optimizer steps between points of training curves")
    log_images: bool | Literal["all"] = Key(
        True, description="pictures for the trackers, once per epoch: true = one sheet of four items, all = every map"
    )
    log_grad_norm: bool = Key(False, description="track the gradient norm of each network")
    trackers: Names = Key(["tensorboard"], description="names of Accelerate trackers; [] = none")
    sync_batchnorm: bool = Key(True, description="batch-norm statistics over all processes")
    channels_last: bool | Literal["auto"] = Key(
        "auto", description="memory layout of the networks; auto = true, but false on a CPU without AVX-512"
    )
    benchmark: bool = Key(False, description="let cuDNN choose algorithms by timing; not bitwise repeatable")
    deterministic: bool = Key(False, description="deterministic algorithms where torch has them; slower")
    detect_anomaly: bool = Key(False, description="find the operation that made a gradient NaN; very slow")
    num_threads: Annotated[int, Key(ge=1, le=1024)] | None = Key(
        None, description="CPU threads per process; null = torch's choice"
    )
    legacy_sampling: bool = Key(False, description="sample up to half a pixel off, as earlier code did")
    nonfinite: Literal["stop", "skip"] = Key(
        "stop", description="on a NaN or infinite loss or gradient: stop, or skip the step"
    )
    nonfinite_limit: Whole = Key(10, description="most skipped steps per epoch; one more stops the run")
    timeout_minutes: Positive = Key(15.0, le=10_080, description="how long processes wait for each other")
    aspect_ratio: Annotated[AspectSection | None, BeforeValidator(_switch)] = Key(
        None, description="crop training batches to random shapes and resize them"
    )
    freeze: Names = Key([], description="parts not to train: networks (pose), modules (depth.encoder), patterns")
    frozen_batchnorm: bool = Key(False, description="freeze statistics and parameters of batch norm")
    ema: Annotated[EmaSection | None, BeforeValidator(_switch)] = Key(
        None, description="moving average of the weights, validated and saved as `best`"
    )
    swa: Annotated[SwaSection | None, BeforeValidator(_switch)] = Key(
        None, description="mean weights of the late epochs, validated and saved as `best`"
    )
    early_stopping: Annotated[StoppingSection | None, BeforeValidator(_switch)] = Key(
        None, description="end the run when a validation number stalls"
    )
    compile: Annotated[CompileSection | None, BeforeValidator(_switch)] = Key(
        None, description="compile the networks with torch.compile"
    )
    fuse: Annotated[
        Literal["auto", "on", "off"],
        BeforeValidator(_on_or_off),
        WithJsonSchema({"enum": ["auto", "on", "off", True, False]}),
    ] = Key("auto", description="compile photometric error and projection: auto = on CUDA")
    gradient_checkpointing: bool = Key(
        False, description="recompute activations in the backward pass: less memory, slower"
    )


class LoaderSection(_Section):
    """How batches are made; `train`, `val`, `test` below it override single keys."""

    batch_size: Count = Key(8, le=100_000, description="GLOBAL batch size; the number of processes must divide it")
    num_workers: Workers | Literal["auto"] = Key(
        0, description="loading processes per training process; auto = by its device, cores and memory"
    )
    shuffle: bool | None = Key(None, description="new order every epoch; null = only for train")
    drop_last: bool | None = Key(None, description="skip an incomplete last batch; null = only for train")
    pin_memory: bool = Key(True, description="load into page-locked memory, for fast copies to a GPU")
    persistent_workers: bool | None = Key(None, description="keep workers between epochs; null = if there are any")
    prefetch_factor: Annotated[int, Key(ge=1, le=1000)] | None = Key(
        None, description="batches loaded ahead per worker; null = torch's choice (2)"
    )
    timeout: NotNegative = Key(0.0, le=604_800, description="seconds to wait for a batch; 0 = for ever")


class OptimizerSection(_Section):
    """One optimizer over all networks; other keys are arguments of the optimizer itself, checked against
    it."""

    type: str = Key(description="any optimizer name of timm: adam, adamw, sgd (Nesterov), lamb, ...; alias: opt")
    lr: NotNegative = Key(1e-4, description="learning rate at the start")
    backbone_lr: NotNegative | None = Key(
        None, description="learning rate of the encoders; null = lr (arXiv:2307.10713)"
    )
    layer_decay: Annotated[float, Key(gt=0, le=1)] | None = Key(
        None, description="factor of the rate from block to block of an encoder, towards the image; null = 1"
    )
    group_lr: Annotated[dict[str, NotNegative | None] | None, AfterValidator(_without_null)] = Key(
        None, description="learning rates of parts, by network (pose) or pattern (depth.encoder.*); null = lr"
    )
    frozen_bn: bool = Key(False, description="do not train scales and shifts of batch norm")
    weight_decay: NotNegative = Key(0.0, description="not applied to biases and 1-D parameters")


class SchedulerSection(_Section):
    """Learning rate over the epochs or steps; other keys are arguments of the torch class, in that unit."""

    type: str = Key(description="steplr, exp, cos, cos_warm, plateau or linear")
    monitor: str | None = Key(None, description="what plateau watches, as in trainer.monitor; needed by plateau only")
    by: Literal["epoch", "step"] = Key(
        "epoch", description="unit of all lengths here: the rates change after every epoch, or every optimizer step"
    )
    warmup: Whole = Key(0, description="epochs or steps in which a factor of all rates rises linearly to 1")
    warmup_factor: Share = Key(0.1, description="that factor at the start")


class EvaluationSection(_Section):
    """Protocol of `monodepth evaluate`, whose options win over it. Training does not use it."""

    metrics: OptionalNames = Key(
        None,
        description="metric sets, one or several: eigen, benchmark, pointcloud, ibims, boundary, boundary_recall,"
        " boundary_f1_moge; null = eigen",
    )
    alignment: OptionalNames = Key(
        None,
        description="one or several, scored side by side: median, median_lower, stereo, none, lsqr_disp, lsqr_depth,"
        " lsqr_depth_trim;"
        " null = stereo for networks trained with a stereo pair, else median",
    )
    crop: str | None = Key(
        None,
        description="garg, eigen, marigold, nyu, cityscapes or none; null = the customary one of the data set",
    )
    min_depth: Positive | None = Key(None, description="score truths above, metres; null = 0.001")
    max_depth: Positive | None = Key(None, description="score truths below, metres; null = 80")
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
OF_TRAINING = {*SECTION_NAMES} - {"dataset", "evaluation"}  # what scores of a trained network do not depend on
