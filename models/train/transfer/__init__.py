"""Transfer learning: a pretrained network with a new head, which is trained first on frozen features, then together with
the last stages of the network.

Yosinski et al., "How transferable are features in deep neural networks?", arXiv:1411.1792.
"""
