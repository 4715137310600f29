"""Interchangeable parts of methods: score, budget, select, merge. Pure tensor functions with paper-free names."""
