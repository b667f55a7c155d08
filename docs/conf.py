"""How Sphinx builds the documentation: ``make docs``."""

import inspect
from typing import Any

from sphinx.application import Sphinx

from sb3_cora import __version__
from sb3_cora.common.arguments import split_docstring
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm

project = "sb3_cora"
author = copyright = "The sb3_cora contributors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
# Of the examples, examples.md is the index
exclude_patterns = ["_build", "examples/index.rst"]

myst_enable_extensions = ["attrs_inline", "dollarmath"]
# Links to headings, `page.md#heading`, as on GitHub
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
# Defaults as they are written, instead of the values they have
autodoc_preserve_defaults = True

# A page and a notebook of each script
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    # Tests run the scripts, whose trainings take minutes
    "plot_gallery": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = f"sb3_cora {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

# In the signature of each algorithm, what it takes besides its own arguments
OTHERS = "**arguments"


def is_derived_algorithm(documented: Any) -> bool:
    """
    :param documented: What autodoc documents.
    :return: Whether it is an algorithm, whose page shows the arguments of its own. The page of all algorithms shows the rest.
    """
    base = CooperativeOnPolicyAlgorithm
    return isinstance(documented, type) and issubclass(documented, base) and documented is not base


def own_arguments(algorithm: type) -> dict[str, str]:
    """
    :param algorithm: An algorithm.
    :return: The descriptions of the arguments that it adds to those of all algorithms, or describes otherwise, by
        ``"param name"``.
    """
    inherited = split_docstring(CooperativeOnPolicyAlgorithm.__doc__ or "")[1]
    return {name: text for name, text in split_docstring(algorithm.__doc__ or "")[1].items() if inherited.get(name) != text}


def show_own_arguments(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Of an algorithm's docstring, which describes all arguments, leave those that are its own."""
    if what == "class" and is_derived_algorithm(documented):
        text = split_docstring(inspect.getdoc(documented) or "")[0]
        # Without a period that would end in a field of its own
        lines[:] = [*text.splitlines(), "", *"\n".join(own_arguments(documented).values()).splitlines(), ""]


def show_own_signature(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Of an algorithm's signature, which has all arguments, leave those that it adds."""
    if what != "class" or not is_derived_algorithm(documented):
        return signature, returned
    described = own_arguments(documented)
    own = []
    for parameter in inspect.signature(documented).parameters.values():
        if f"param {parameter.name}" in described:
            own.append(f"{parameter.name}={parameter.default!r}")
    return f"({', '.join(['policy', 'env', *own, OTHERS])})", returned


def setup(app: Sphinx) -> None:
    """
    :param app: Sphinx.
    """
    app.connect("autodoc-process-docstring", show_own_arguments)
    app.connect("autodoc-process-signature", show_own_signature)
