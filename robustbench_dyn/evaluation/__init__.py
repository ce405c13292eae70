"""The evaluation of a model: stages, the pipeline that runs them, and the checks of both."""
