"""A film being made: shots and chunks in order, the threads behind them, frames on their way."""
