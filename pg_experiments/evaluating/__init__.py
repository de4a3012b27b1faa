"""Evaluations after the training: of all runs of a sweep as one program, and as videos of what is played."""
