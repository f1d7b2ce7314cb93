"""Evaluation: the model over a data set, COCO's metrics of what it found, and their report. Called, it evaluates."""

from ..verb import make_verb

make_verb(__name__, "run")
