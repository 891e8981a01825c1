"""The bank of retrained models: what training on random subsets does, and who predicts it."""
