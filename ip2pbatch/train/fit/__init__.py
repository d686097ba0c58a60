"""What is trained: tokenizer, autoencoder, UNet."""
