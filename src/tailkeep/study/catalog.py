"""The closed catalog of kinds: every source, profile, model, loss, sampler and method that a study file may name.

A new kind is one new file in its room, its import and its name in one line here; a new loss is one new file and one
line in ``tailkeep/losses/__init__.py``. The check suite walks the tuples at the end, so a newcomer is tested unasked.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import Field

from tailkeep import losses
from tailkeep.compression.distillation.adjusted import AdjustedDistillation
from tailkeep.compression.distillation.balanced import BalancedDistillation
from tailkeep.compression.distillation.decoupled import DecoupledDistillation
from tailkeep.compression.distillation.feature import FeatureDistillation
from tailkeep.compression.distillation.hinton import Distillation
from tailkeep.compression.distillation.long_tail import LongTailDistillation
from tailkeep.compression.distillation.self_distillation import SelfDistillation
from tailkeep.compression.identity import Continue
from tailkeep.compression.pruning.class_aware import ClassAwarePruning
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.pruning.performance_weighted import PerformanceWeighted
from tailkeep.compression.pruning.weight_magnitude import WeightPruning
from tailkeep.compression.quantization.ptq import PostTrainingQuantization
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.compression.quantization.tail_bits import TailAwareBits
from tailkeep.compression.quantization.taught_qat import QuantizedDistillation
from tailkeep.compression.repair.classifier_retraining import ClassifierRetraining
from tailkeep.compression.repair.logit_adjustment import PostHocLogitAdjustment
from tailkeep.compression.repair.tau_normalisation import TauNormalisation
from tailkeep.compression.repair.weight_scaling import WeightScaling
from tailkeep.data.arrays import Arrays
from tailkeep.data.cifar import Cifar10, Cifar100
from tailkeep.data.digits import Digits
from tailkeep.data.folder import ImageFolder
from tailkeep.data.profiles import Explicit, Exponential, Linear, Natural, Step
from tailkeep.losses.base import Loss
from tailkeep.models.digits import DigitsNet
from tailkeep.models.resnet import ResNet
from tailkeep.models.user import UserModel
from tailkeep.sampling import ClassBalanced, EffectiveNumber, ProgressivelyBalanced, SquareRoot, Uniform
from tailkeep.spec import Spec


def one_of(room: ModuleType) -> Any:
    """Return the union of the classes with a ``kind`` that a room names in its ``__init__``."""
    classes = [value for value in vars(room).values() if isinstance(value, type) and issubclass(value, Spec)]
    return Annotated[reduce(or_, [cls for cls in classes if "kind" in cls.model_fields]), Field(discriminator="kind")]


AnySource = Annotated[Digits | Cifar10 | Cifar100 | ImageFolder | Arrays, Field(discriminator="kind")]
AnyProfile = Annotated[Exponential | Step | Linear | Natural | Explicit, Field(discriminator="kind")]
AnyModel = Annotated[ResNet | DigitsNet | UserModel, Field(discriminator="kind")]
if TYPE_CHECKING:
    AnyLoss = Loss
else:
    AnyLoss = one_of(losses)
AnySampler = Annotated[
    Uniform | ClassBalanced | SquareRoot | ProgressivelyBalanced | EffectiveNumber, Field(discriminator="kind")
]
AnyMethod = Annotated[
    FilterPruning
    | WeightPruning
    | ClassAwarePruning
    | PerformanceWeighted
    | QuantizationAwareTraining
    | PostTrainingQuantization
    | QuantizedDistillation
    | TailAwareBits
    | Distillation
    | DecoupledDistillation
    | FeatureDistillation
    | SelfDistillation
    | BalancedDistillation
    | LongTailDistillation
    | AdjustedDistillation
    | ClassifierRetraining
    | WeightScaling
    | TauNormalisation
    | PostHocLogitAdjustment
    | Continue,
    Field(discriminator="kind"),
]


def members(union: Any) -> tuple[type, ...]:
    """Return the classes of one of the unions above."""
    return get_args(get_args(union)[0])


SOURCES, PROFILES, MODELS = members(AnySource), members(AnyProfile), members(AnyModel)
LOSSES, SAMPLERS, METHODS = members(AnyLoss), members(AnySampler), members(AnyMethod)
