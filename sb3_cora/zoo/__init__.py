"""
The command line over rl_zoo3: ``python -m sb3_cora.zoo.train``, ``.enjoy``, ``.record_video``, ``.tune``,
``.benchmark``, ``.plot`` and ``.explain``.

It may import everything, but nothing may import it, because rl_zoo3 patches Gymnasium's ``TimeLimit`` when it is imported.
"""

from importlib.util import find_spec

# Looked up instead of imported, because not every module in here needs what rl_zoo3 does on import.
for module in ("matplotlib", "moviepy", "rl_zoo3"):
    if find_spec(module) is None:
        raise ImportError(f'{module}, which the zoo needs, is not installed: pip install "sb3-cora[zoo]"')
