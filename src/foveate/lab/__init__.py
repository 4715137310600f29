"""The lab: procedural tasks, and small real models trained on them, on which every method can be judged.

``tasks`` makes items and scenes, ``train`` and ``evaluate`` hold the functions of their names, ``models`` and
``tokenizer`` make what is trained.
"""
