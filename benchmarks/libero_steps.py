# SPDX-License-Identifier: Apache-2.0
"""CPU time of an action in LIBERO's simulator, without a policy.

    OMP_NUM_THREADS=1 python benchmarks/libero_steps.py                       # needs LIBERO
    OMP_NUM_THREADS=1 PYTHONPATH=OTHER_CHECKOUT python benchmarks/libero_steps.py --draws_every 1

libero_object 0, thinned meshes, 128 px, a fresh simulator for each process: medians and range over
episodes of random actions, with pictures at every action and at every fifth. One JSON line each.
"""

import argparse

import numpy as np
from common import conditions, cpu_ms, report, spread

from lawm_hf.envs.libero import LiberoEnv


def main() -> None:
    """Play."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws_every", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--actions", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    env = LiberoEnv("libero_object", 0, image_size=128, fast_rendering=True)
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    times = {every: ([], []) for every in args.draws_every}
    for number in range(args.rounds):
        for every, (resets, actions) in times.items():
            resets.append(cpu_ms(lambda: env.reset(seed=number)))  # noqa: B023  called at once

            def play(every: int = every) -> None:
                for step in range(args.actions):
                    env.draws_next = (step + 1) % every == 0
                    env.step(generator.uniform(-1, 1, 7))

            actions.append(cpu_ms(play) / args.actions)
            env.draws_next = True
    for every, (resets, actions) in times.items():
        (reset, reset_range), (action, action_range) = spread(resets), spread(actions)
        line = {"draws_every": every, "reset_ms": reset, "reset_range": reset_range}
        line |= {"action_ms": action, "action_range": action_range, "rounds": args.rounds}
        report(**line, **conditions("mujoco", "robosuite"))
    env.close()


if __name__ == "__main__":
    main()
