"""All scenarios, in the order in which they are played."""

from __future__ import annotations

from collections.abc import Sequence

from tools.load.attack import costly, floods, rights
from tools.load.attack.scenario import Scenario

SCENARIOS: Sequence[Scenario] = (*costly.SCENARIOS, rights.SCENARIO, *floods.SCENARIOS)
