"""Where else the rows of a run are told than in metrics.jsonl: TensorBoard, a table, MLflow, Weights & Biases."""
