"""The one layer that knows Ultralytics: models, losses, optimizers, weights, decoding and export."""
