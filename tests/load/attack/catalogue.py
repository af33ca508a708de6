"""All scenarios, in the order in which they are played."""

from __future__ import annotations

from collections.abc import Sequence

from tests.load.attack import costly, floods, rights
from tests.load.attack.scenario import Scenario

SCENARIOS: Sequence[Scenario] = (*costly.SCENARIOS, rights.SCENARIO, *floods.SCENARIOS)
