"""The closed catalog of kinds: every source, profile, model, loss, sampler and method that a study file may name.

A new kind is one new file in its room, its import and its name in one line here. The check suite walks the tuples at
the end, so a newcomer is tested unasked.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field

from tailkeep.compression.distillation.decoupled import DecoupledDistillation
from tailkeep.compression.distillation.feature import FeatureDistillation
from tailkeep.compression.distillation.hinton import Distillation
from tailkeep.compression.distillation.self_distillation import SelfDistillation
from tailkeep.compression.identity import Continue
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.pruning.weight_magnitude import WeightPruning
from tailkeep.compression.quantization.ptq import PostTrainingQuantization
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.compression.quantization.taught_qat import QuantizedDistillation
from tailkeep.data.arrays import Arrays
from tailkeep.data.cifar import Cifar10, Cifar100
from tailkeep.data.digits import Digits
from tailkeep.data.folder import ImageFolder
from tailkeep.data.profiles import Explicit, Exponential, Linear, Natural, Step
from tailkeep.losses.balanced_softmax import BalancedSoftmax
from tailkeep.losses.cross_entropy import CrossEntropy
from tailkeep.models.digits import DigitsNet
from tailkeep.models.resnet import ResNet
from tailkeep.models.user import UserModel
from tailkeep.sampling import ClassBalanced, Uniform

AnySource = Annotated[Digits | Cifar10 | Cifar100 | ImageFolder | Arrays, Field(discriminator="kind")]
AnyProfile = Annotated[Exponential | Step | Linear | Natural | Explicit, Field(discriminator="kind")]
AnyModel = Annotated[ResNet | DigitsNet | UserModel, Field(discriminator="kind")]
AnyLoss = Annotated[CrossEntropy | BalancedSoftmax, Field(discriminator="kind")]
AnySampler = Annotated[Uniform | ClassBalanced, Field(discriminator="kind")]
AnyMethod = Annotated[
    FilterPruning
    | WeightPruning
    | QuantizationAwareTraining
    | PostTrainingQuantization
    | QuantizedDistillation
    | Distillation
    | DecoupledDistillation
    | FeatureDistillation
    | SelfDistillation
    | Continue,
    Field(discriminator="kind"),
]


def members(union: Any) -> tuple[type, ...]:
    """Return the classes of one of the unions above."""
    return get_args(get_args(union)[0])


SOURCES, PROFILES, MODELS = members(AnySource), members(AnyProfile), members(AnyModel)
LOSSES, SAMPLERS, METHODS = members(AnyLoss), members(AnySampler), members(AnyMethod)
