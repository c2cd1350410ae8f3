"""What is compared: matched LSTM and Transformer encoder-decoders. Imports torch and nothing else."""
