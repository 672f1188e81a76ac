"""The losses that a study file may name, one line each. A new one is its file beside these and its line here."""

from tailkeep.losses.balanced_softmax import BalancedSoftmax as BalancedSoftmax
from tailkeep.losses.class_balanced import ClassBalancedCrossEntropy as ClassBalancedCrossEntropy
from tailkeep.losses.cross_entropy import CrossEntropy as CrossEntropy
from tailkeep.losses.focal import Focal as Focal
from tailkeep.losses.ldam import Ldam as Ldam
from tailkeep.losses.logit_adjustment import LogitAdjustment as LogitAdjustment
