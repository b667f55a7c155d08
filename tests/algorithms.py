"""The algorithms that tests run over, read off what the package exports."""

import inspect
from typing import Any

import torch as th

import sb3_cora
from sb3_cora.common.networks import AgentNetwork
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm

EXPORTS = {name: getattr(sb3_cora, name) for name in sb3_cora.__all__}
ALGORITHMS: list[type[CooperativeOnPolicyAlgorithm]] = [
    export
    for _, export in sorted(EXPORTS.items())
    if isinstance(export, type) and issubclass(export, CooperativeOnPolicyAlgorithm)
]
ALGORITHMS_WITH_Q = [algorithm for algorithm in ALGORITHMS if issubclass(algorithm, QCriticOnPolicyAlgorithm)]
# Those that play a cooperative game for each sample
ALGORITHMS_WITH_GAME = [algorithm for algorithm in ALGORITHMS if issubclass(algorithm, sb3_cora.CORAPPO)]


def learns_as(algorithm: type[CooperativeOnPolicyAlgorithm]) -> type:
    """
    :param algorithm: Class of a model
    :return: The class whose code it learns by: its own, or where it has no more than a constructor that of a parent
    """
    return next(
        cls
        for cls in algorithm.__mro__
        if any(inspect.isfunction(member) for name, member in vars(cls).items() if name != "__init__")
    )


# One of all that learn by the same code, for what does not depend on the settings that make the others
LEARNERS = list({learns_as(algorithm): algorithm for algorithm in reversed(ALGORITHMS)}.values())

# Small enough that an iteration takes milliseconds
TINY: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


def make_tiny(algorithm: type[CooperativeOnPolicyAlgorithm], env: Any, **settings: Any) -> CooperativeOnPolicyAlgorithm:
    """
    :param algorithm: Class of the model
    :param env: Its environment
    :param settings: Constructor arguments that go before those of ``TINY``
    :return: A model with short rollouts and few epochs
    """
    return algorithm("MlpPolicy", env, **{**TINY, **settings})


def weights(model: CooperativeOnPolicyAlgorithm) -> dict[str, th.Tensor]:
    """
    :param model: Any model
    :return: A copy of all parameters of its networks, by name
    """
    return {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}


def assert_same_weights(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> None:
    """
    :param first: Parameters by name
    :param second: Parameters by name, expected to be the same to the last bit
    """
    assert first.keys() == second.keys()
    for name, parameter in first.items():
        assert th.equal(parameter, second[name]), name


def assert_trained(before: dict[str, th.Tensor], model: CooperativeOnPolicyAlgorithm) -> None:
    """
    :param before: Parameters before training
    :param model: A model all of whose networks should have moved, to finite weights
    """
    after = weights(model)
    for name, parameter in after.items():
        assert th.isfinite(parameter).all(), name
    for network in {name.partition(".")[0] for name in after}:
        names = [name for name in after if name.partition(".")[0] == network]
        assert any(not th.equal(before[name], after[name]) for name in names), network


def agent_networks(model: CooperativeOnPolicyAlgorithm) -> list[tuple[AgentNetwork, int]]:
    """
    :param model: A model whose agents share no parameters
    :return: For each agent, the network that holds its actor and the actor's position in there
    """
    actor = model.policy.actor
    if isinstance(actor, AgentNetwork):
        return [(actor, agent) for agent in range(model.n_agents)]
    return [(network, 0) for network in actor.networks]


def actor_weights(model: CooperativeOnPolicyAlgorithm) -> dict[str, th.Tensor]:
    """
    :param model: A model whose agents share no parameters
    :return: A copy of the actors' parameters by name, whichever way the model stores them, the agents on the first axis
    """
    own = [
        {name: parameter.detach()[position].clone() for name, parameter in network.named_parameters()}
        for network, position in agent_networks(model)
    ]
    return {name: th.stack([parameters[name] for parameters in own]) for name in own[0]}
