"""The sections of a recipe, their keys, what these may be, and what goes with what."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)


def _setting(default: str | None, *, optional: bool = False) -> BeforeValidator:
    """A part may be written as its bare name, and its settings without the name where that is the default."""

    def complete(value: Any) -> Any:
        if optional and value is None:
            return None
        setting = {"name": value} if isinstance(value, str) else value
        if isinstance(setting, dict) and "name" not in setting and default is not None:
            setting = {"name": default, **setting}
        if not isinstance(setting, dict) or not isinstance(setting.get("name"), str):
            raise ValueError("should be a name, or a mapping with a name and its settings")  # noqa: TRY004
        return setting

    written: Any = str | dict[str, Any] | None if optional else str | dict[str, Any]
    return BeforeValidator(complete, json_schema_input_type=written)


# A named part with its settings, {"name": …, key: value, …}; a bare string is a name without settings.
Setting = Annotated[dict[str, Any], _setting(None)]
OptionalSetting = Annotated[dict[str, Any] | None, _setting(None, optional=True)]
CropsSetting = Annotated[dict[str, Any], _setting("one")]
PoolingSetting = Annotated[dict[str, Any], _setting("average")]
CropPoolingSetting = Annotated[dict[str, Any], _setting("max")]
LossSetting = Annotated[dict[str, Any], _setting("bce")]
OptimizerSetting = Annotated[dict[str, Any], _setting("adamw")]
ScheduleSetting = Annotated[dict[str, Any], _setting("constant")]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """Which pictures, and how their labels are read."""

    train_split: str = Field("train", description="split to train on")
    val_split: str = Field("val", description="split that chooses the best epoch")
    val_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the train split taken for validation (by seed, every class in proportion) "
        "where the source has no `val_split`",
    )
    difficult: Literal["ignore", "positive", "negative"] = Field(
        "ignore", description="label of a class whose objects in a picture are all marked difficult (VOC)"
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="damaged pictures: `stop` lists them all, `skip` leaves them out, named and counted"
    )


# Channels and blocks: a bottleneck's inner layers have a quarter of the channels.
StageSetting = tuple[Annotated[int, Field(ge=4, multiple_of=4)], Annotated[int, Field(ge=1)]]


class Model(Section):
    """The network: backbone, pooling, linear head."""

    backbone: str = Field(
        description="a torchvision or timm model name; `torchvision/NAME` or `timm/NAME` says which library. "
        "`preact_resnet` is our own, by `stages`"
    )
    stages: Annotated[tuple[StageSetting, ...], Field(min_length=1)] | None = Field(
        None, description="of `preact_resnet`: channels (a multiple of 4) and number of bottlenecks of each stage"
    )
    weights: str = Field(
        "imagenet",
        description="`imagenet` (the library's own download, or `imagenet:TAG` for one of several), `none`, or the "
        "path of a state dict or safetensors file",
    )
    output_stride: Literal[8, 16, 32] | None = Field(
        None,
        description="pixels between cells of the feature map, where timm can trade strides for dilation; "
        "null: the network's own",
    )
    weight_standardization: OptionalSetting = Field(
        None,
        description="a weight standardization part: every convolution of the backbone is weight-standardised after its "
        "weights are loaded, and keeps its function unless the part says otherwise; null: none is",
    )
    frozen: bool = Field(
        default=False, description="the backbone is not trained: no gradient, no BatchNorm update, always eval mode"
    )
    localizer: OptionalSetting = Field(
        None,
        description="a localizer part: every cell of the map is scored for every class, then the scores are pooled; "
        "null: features are pooled first",
    )
    pooling: PoolingSetting = Field(
        default={"name": "average"},
        description="from the feature map to one vector, or from the score map to logits: a pooling part",
    )
    crop_pooling: CropPoolingSetting = Field(
        default={"name": "max"}, description="from the logits of a picture's crops to its own: a crop pooling part"
    )
    feature_norm: bool = Field(
        default=False,
        description="standardise pooled features by running mean and variance (BatchNorm without scale and shift)",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability on pooled features")
    detector: OptionalSetting = Field(
        None,
        description="a detector part: boxes are learned from image-level labels, among proposals; it takes the place "
        "of pooling, crop pooling and head. null: a classifier",
    )

    @model_validator(mode="after")
    def _localizer_pools_scores(self) -> Self:
        if self.localizer is not None and (self.feature_norm or self.dropout):
            raise ValueError("feature_norm and dropout are about pooled features, and a localizer pools scores")
        return self


class Input(Section):
    """How a picture becomes a tensor; all but `augment` is stored in the bundle."""

    size: int = Field(224, ge=16, le=4096, description="side of the square input, pixels")
    fit: Literal["crop", "squash"] = Field(
        "crop", description="`crop`: resize the shorter side, cut the centre square; `squash`: resize to the square"
    )
    resize: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="the shorter side before the cut, pixels (with `squash` both sides); null: size / 0.875",
    )
    crops: CropsSetting = Field(
        default={"name": "one"},
        description="crops of a picture; at test `evaluation.crops` may say otherwise",
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="resampling filter, always antialiased"
    )
    normalize: Literal["backbone", "train"] = Field(
        "backbone",
        description="where `mean` and `std` come from: `backbone`, those it was trained with; `train`, those of all "
        "pixels of the train split",
    )
    mean: tuple[float, float, float] | None = Field(None, description="RGB mean in 0…1; null: as `normalize` says")
    std: tuple[float, float, float] | None = Field(
        None, description="RGB standard deviation in 0…1; null: as `normalize` says"
    )
    augment: tuple[Setting, ...] = Field(
        (), description="augmentation parts for training, in order; a cropping part takes the place of `fit`"
    )

    @model_validator(mode="after")
    def _resize_has_an_effect(self) -> Self:
        way = self.crops["name"]
        if self.resize is not None and way in {"scales", "dense"}:
            raise ValueError(f"resize has no effect with crops: {way}")
        if self.resize is not None and self.fit == "squash" and way == "one":
            raise ValueError("resize has no effect with fit: squash and one crop")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize {self.resize} is smaller than size {self.size}")
        return self


class Training(Section):
    """The loop."""

    epochs: int = Field(10, ge=1, description="passes over the train split")
    batch_size: int = Field(16, ge=1, description="pictures a step, of all processes together")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts of a batch that are computed one after another, for less memory, of two pictures or more; "
        "the gradient is that of the whole batch",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="threads that decode pictures, and processes where those of a store are waited for; null: one a "
        "core, at most 16. Never changes the result",
    )
    on_device: bool = Field(
        default=False,
        description="the pictures of a pixel store lie in the device's memory and are cut and augmented there, by "
        "batches: for GPUs that wait for pictures",
    )
    freeze_epochs: int = Field(
        0, ge=0, description="train the head alone for this many epochs before the backbone joins"
    )
    grad_clip: float | None = Field(None, gt=0, description="largest gradient norm; null: no clipping")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the moving average of the weights that is evaluated; null: none"
    )
    best_by: Literal["val_map", "val_top1", "val_loss"] = Field(
        "val_map", description="what chooses the best epoch; where it is undefined, the lowest val loss does"
    )
    early_stopping: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better one; null: never"
    )
    mix: OptionalSetting = Field(
        None, description="a mix part: pictures of a batch are mixed, and their labels with them; null: none"
    )
    views: int = Field(
        1,
        ge=0,
        le=64,
        description="with a frozen backbone, how many views of each picture go through it, once: the first as at test, "
        "the others augmented; their features are kept for this run and others. 0: every epoch anew",
    )
    solver: OptionalSetting = Field(
        None, description="a solver part trains the head on those features to its optimum; null: batch by batch"
    )
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="arithmetic of the forward pass")
    compile: bool = Field(default=False, description="compile the network with torch.compile for training")
    sync_batch_norm: bool = Field(
        default=True,
        description="of several processes: BatchNorm takes its statistics over the batch of all of them; false: over "
        "the share of each, which is faster and no longer what one process computes",
    )
    checkpoint_steps: int | None = Field(
        None, ge=1, description="also write a checkpoint every so many steps; null: at the end of an epoch"
    )
    checkpoint_epochs: int | None = Field(
        None, ge=1, description="also keep the checkpoint of every so many epochs; null: only the last and the best"
    )


class Tracking(Section):
    """What a run shows of itself while it trains, in TensorBoard and `views/`. Never changes the result."""

    every: int = Field(5, ge=1, description="epochs between two showings, after that of the first epoch")
    pictures: int = Field(
        4, ge=0, description="pictures of an epoch's first batch, drawn as they enter the network, augmented"
    )
    heat_maps: int = Field(
        0, ge=0, description="pictures of the val split, drawn at the end of the epoch with the heat of each true class"
    )
    boxes: int = Field(
        0,
        ge=0,
        description="of a detector: pictures of the val split, drawn at the end of the epoch with the best boxes"
        " of each true class",
    )
    window: int = Field(
        0,
        ge=0,
        description="pictures of the running window whose loss, mAP and F-beta are recorded at every step; 0: none",
    )
    histograms: tuple[str, ...] = Field(
        (),
        description="parameters whose distribution, and that of their gradients, is recorded: names with wildcards, "
        "such as `head.linear.*` or `backbone.body.layer4.*.weight`",
    )
    graph: bool = Field(default=False, description="record the graph of the backbone's operations")


class Evaluation(Section):
    """How scores become numbers."""

    batch_size: int = Field(32, ge=1, description="pictures a forward pass")
    crops: OptionalSetting = Field(
        None, description="crops of a picture for `evaluate` and `predict`; null: those of `input.crops`"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="score above which a class is predicted")
    beta: float = Field(2.0, gt=0, description="beta of the F-beta score")
    average: Literal["macro", "micro", "samples"] = Field("macro", description="averaging of the F-beta score")
    resamples: int = Field(
        1000, ge=0, description="bootstrap resamples behind the intervals of AP, 100 or more; 0: no intervals"
    )

    @field_validator("resamples")
    @classmethod
    def _enough_for_an_interval(cls, value: int) -> int:
        if 0 < value < 100:
            raise ValueError("100 resamples or more make an interval; 0 leaves it out")
        return value


class Recipe(Section):
    """An experiment. Sections in the order in which the data passes them."""

    name: str = Field(description="name of the experiment")
    description: str = Field("", description="one sentence for people")
    seed: int = Field(0, ge=0, lt=2**31, description="all randomness is a function of it")
    data: Data = Field(default=Data())
    input: Input = Field(default=Input())
    model: Model
    loss: LossSetting = Field(default={"name": "bce"}, description="a loss part")
    optimizer: OptimizerSetting = Field(default={"name": "adamw"}, description="an optimizer part")
    schedule: ScheduleSetting = Field(default={"name": "constant"}, description="a learning-rate schedule part")
    training: Training = Field(default=Training())
    tracking: Tracking = Field(default=Tracking())
    evaluation: Evaluation = Field(default=Evaluation())

    @model_validator(mode="after")
    def _boxes_are_of_detectors(self) -> Self:
        if self.tracking.boxes and self.model.detector is None:
            raise ValueError("tracking.boxes are of detectors; tracking.heat_maps is for classifiers")
        return self

    @model_validator(mode="after")
    def _views_have_an_effect(self) -> Self:
        training = self.training
        if training.on_device and self.model.frozen and training.views:
            raise ValueError("training.on_device has no effect where features are computed once")
        if self.model.frozen and self.model.localizer is not None and training.views:
            raise ValueError("model.localizer is trained on maps, which are not stored: set training.views 0")
        if not self.model.frozen:
            if training.views != 1:
                raise ValueError("training.views has an effect only with model.frozen")
            if training.solver is not None:
                raise ValueError("training.solver needs model.frozen")
        elif training.solver is not None and (training.ema is not None or self.model.dropout):
            raise ValueError("training.solver goes without training.ema and model.dropout")
        elif training.views == 1 and self.input.augment:
            raise ValueError("input.augment has no effect with training.views 1: set 2 or more, or 0")
        elif training.views > 1 and not self.input.augment:
            raise ValueError("training.views above 1 are all alike without input.augment")
        elif training.views and training.compile:
            raise ValueError("training.compile is for networks, and not for their features: set training.views 0")
        elif training.views and training.mix is not None:
            raise ValueError("training.mix needs pictures, not their features: set training.views 0")
        elif not training.views and training.solver is not None:
            raise ValueError("training.solver needs features that are kept: set training.views 1 or more")
        return self
