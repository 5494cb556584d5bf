"""What differs between JSON objects of one shape, so that many objects that are nearly the same take little room and
little time to read. What does not differ is shared, not copied.

>>> first = {"seed": 0, "results": {"dense": {"top1": 90.0, "macs": 10}}}
>>> changes(first, {"seed": 1, "results": {"dense": {"top1": 91.0, "macs": 10}}})
{'seed': 1, 'results': {'dense': {'top1': 91.0}}}
"""

from typing import Any

from compress.io.files import JSON

Shape = tuple[tuple[str, Any], ...] | None


def shape_of(content: Any) -> Shape:
    """The keys of an object in their order, each with the shape of what it holds; None of what is no object."""
    if not isinstance(content, dict):
        return None
    return tuple((key, shape_of(value)) for key, value in content.items())


def changes(old: JSON, new: JSON) -> JSON:
    """The parts of `new` that are not those of `old`, an object of the same shape."""
    found: JSON = {}
    for key, value in new.items():
        before = old[key]
        if isinstance(value, dict):
            if inside := changes(before, value):
                found[key] = inside
        elif type(value) is not type(before) or value != before:
            found[key] = value
    return found


def changed(old: JSON, by: JSON) -> JSON:
    """The object that has these changes to `old`, and its shape.

    Raises:
        ValueError: with these changes it would have another shape.
    """
    new = dict(old)
    for key, value in by.items():
        if isinstance(value, dict):
            new[key] = changed(new[key], value)
        elif key not in old or isinstance(old[key], dict):
            raise ValueError(f"{key} has no place in an object of this shape")
        else:
            new[key] = value
    return new
