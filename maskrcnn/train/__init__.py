"""Training: one loop, and what it needs to be stopped, repeated and spread over machines. Called, it trains."""

from ..verb import make_verb

make_verb(__name__, "loop")
