"""Transfer learning: a pretrained network with a new head.

The head is trained on what the frozen network makes of the images, then the last stages of the network with it.
Yosinski et al., "How transferable are features in deep neural networks?", arXiv:1411.1792.
"""
