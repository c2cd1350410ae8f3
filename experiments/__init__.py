"""How the models are run and tracked: grids, tasks, training, evaluation, efficiency, MLflow."""
