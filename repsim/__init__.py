"""What does adversarial robustness do to the representations inside neural networks?"""
