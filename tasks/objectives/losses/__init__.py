"""Pointwise losses and their links, a file a family. All there is to know of a loss stands in its class."""

from tasks.objectives.losses.base import *  # noqa: F403
from tasks.objectives.losses.binary import *  # noqa: F403
from tasks.objectives.losses.multinomial import *  # noqa: F403
from tasks.objectives.losses.regression import *  # noqa: F403
