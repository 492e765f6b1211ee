"""Weight standardisation that keeps the function: docs/weight_standardization.md derives it."""

from manyhot.models.weight_standardization.convert import (
    ConvRow,
    Difference,
    StandardizationReport,
    fold_weights,
    output_difference,
    standardization_settings,
    standardize_in_place,
    standardize_weights,
)
from manyhot.models.weight_standardization.layers import ChannelEpsBatchNorm2d, WeightStandardizedConv2d
from manyhot.models.weight_standardization.modes import Standardization, standardizations

__all__ = [
    "ChannelEpsBatchNorm2d",
    "ConvRow",
    "Difference",
    "Standardization",
    "StandardizationReport",
    "WeightStandardizedConv2d",
    "fold_weights",
    "output_difference",
    "standardization_settings",
    "standardizations",
    "standardize_in_place",
    "standardize_weights",
]
