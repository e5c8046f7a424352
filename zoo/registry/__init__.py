"""What is known: every model as a record of data, read from `registry.yaml` and from the overlays of users.

The lowest floor of the zoo: it may import nothing of it but `zoo.errors`, and neither torch nor the network. Begin with
`entry`, the records; `registry` merges files into them, `yamlfile` reads strictly, `listing` puts them into rows.
"""

from zoo.registry.registry import Registry, load, main_file

__all__ = ["Registry", "load", "main_file"]
