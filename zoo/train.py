"""
Train an algorithm on an environment, or search for its settings, with rl_zoo3's command line.

    python zoo/train.py --algo cora_ppo --env give_way --progress
    python zoo/train.py --algo mappo --env navigation -n 500000 -params n_epochs:5
    python zoo/train.py --algo cora_ppo --env give_way -i logs/cora_ppo/give_way_1/give_way.zip
    python zoo/train.py --algo cora_ppo --env give_way -optimize --n-trials 50 --n-jobs 2

All flags of rl_zoo3 are there (``--help``). The defaults below suit environments that step many worlds at once.
"""

import sys

import rl_zoo3.exp_manager
import rl_zoo3.train

import algos  # noqa: F401  registers the algorithms
import hyperparams_opt  # noqa: F401  registers the samplers
import sb3_cora.envs  # noqa: F401  registers the environments
from exp_manager import JointExperimentManager
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.common.vec_normalize import JointVecNormalize

DEFAULTS = (
    *("--algo", "cora_ppo"),
    *("--env", "give_way"),
    *("--eval-freq", "0"),  # up to 30 evaluations, spread over the training
    *("--eval-episodes", "50"),
    *("--n-eval-envs", "50"),
    *("--num-threads", "1"),  # the networks are small: threads gain little, and stall each other where a core is taken
)


def main() -> None:
    """Run rl_zoo3's training with the project's experiment manager."""
    rl_zoo3.train.ExperimentManager = JointExperimentManager  # type: ignore[misc]
    # Statistics shared among agents, and rewards of the agents' own: `normalize: {share_statistics: true}`
    rl_zoo3.exp_manager.VecNormalize = JointVecNormalize  # type: ignore[misc]
    # `frame_stack: 4` over observations with masks
    rl_zoo3.exp_manager.VecFrameStack = JointVecFrameStack  # type: ignore[assignment,misc]
    # In front of the user's flags, which therefore win
    sys.argv[1:1] = DEFAULTS
    rl_zoo3.train.train()


if __name__ == "__main__":
    main()
