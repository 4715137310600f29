"""How the names in a vector file map to a method of foveate: one small file for each folder of vectors.

``adapters/<folder>.py`` holds one function::

    def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]

``params`` is the case's ``params``; ``given`` holds its inputs as torch tensors under their names without ``in.``. The
answer holds every output under its name without ``out.``, computed by foveate: bool and int64 tensors are compared
exactly, floating ones at the case's tolerance, shapes always. More names than the case asks for are ignored, a missing
one fails the case.

An adapter sees nothing else: not the file's name, not the notes, not the expected outputs. It renames, reorders and
supplies what a model would have supplied (a transformer block around the method, a projection); decisions are made by
the library.
"""
