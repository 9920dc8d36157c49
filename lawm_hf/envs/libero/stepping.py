# SPDX-License-Identifier: Apache-2.0
# mujoco's compiled classes carry no types:
# pyright: reportAttributeAccessIssue=false
"""The same simulation with less work: nothing is computed twice, no picture that nobody sees.

In each of the 25 substeps of an action robosuite computes positions, contacts and accelerations
three times: before it asks the controller, when the controller asks, and when it integrates. The
state is the same each time. And it draws both cameras at every action.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np


class Economy:
    """Saves work in a robosuite simulator; states and pictures stay the same to the bit.

    Args:
        world: robosuite's environment, which is built anew by no reset.
        cameras: Its observables that are drawn.

    Attributes:
        draws: Whether the next action's cameras are drawn. If not, they show what was drawn last.
    """

    def __init__(self, world: Any, cameras: list[str]):
        self.draws, self._is_stepping, self._is_fresh = True, False, False
        self._model, self._data = world.sim.model._model, world.sim.data._data
        self._can_split = self._model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
        world.sim.forward, world.sim.step = self._forward, self._step
        for name in cameras:
            observable = world._observables[name]
            observable.set_sensor(self._drawn_if_asked(observable, observable._sensor))

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """While an action is executed nobody but the simulator moves anything."""
        self._is_stepping, self._is_fresh, self._is_first = self._can_split, False, True
        try:
            yield
        finally:
            self._is_stepping = False

    def _forward(self) -> None:
        if not self._is_stepping:
            mujoco.mj_forward(self._model, self._data)
        elif not self._is_fresh:
            # What follows reads no acceleration, but for force sensors when an action begins.
            compute = mujoco.mj_forward if self._is_first else mujoco.mj_step1
            compute(self._model, self._data)
            self._is_fresh, self._is_first = True, False

    def _step(self, with_udd: bool = True) -> None:
        finish = mujoco.mj_step2 if self._is_stepping and self._is_fresh else mujoco.mj_step
        finish(self._model, self._data)
        self._is_fresh = False

    def _drawn_if_asked(self, observable: Any, draw: Callable[[Any], np.ndarray]) -> Any:
        def sensor(cache: Any) -> np.ndarray:
            if self.draws or not cache:
                return draw(cache)
            return observable._current_observed_value

        # robosuite marks its sensors so.
        setattr(sensor, "__modality__", getattr(draw, "__modality__"))  # noqa: B009, B010
        return sensor
