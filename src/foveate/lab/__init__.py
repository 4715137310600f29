"""The lab: procedural tasks, and small real models trained on them, on which every method can be judged."""
