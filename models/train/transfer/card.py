"""The section of the model card that says how a transfer was trained, and what from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimpse.models.train.text import numbers, paragraph
from glimpse.models.train.transfer.plan import TransferRun

if TYPE_CHECKING:
    from glimpse.models.train.card import CardContents


def training(card: CardContents, run: TransferRun, command: str) -> str:
    """The section as Markdown; `command` is that which reproduces the run."""
    plan, recipe = run.plan, run.recipe
    phases = (
        "- **Head**: a new classifier, trained alone on the features that the frozen base gives for each image as it\n"
        f"  is and mirrored: AdamW (arXiv:1711.05101), learning rate {plan.learning_rate:g}, at most {plan.epochs} "
        "epochs.\n"
    )
    if plan.thaw:
        last = "the last stage" if plan.thaw == 1 else f"the last {plan.thaw} stages"
        phases += (
            f"- **Thawed**: then {last} before the classifier with it, learning rate "
            f"{plan.learning_rate * plan.thawed_rate:g}, at most {plan.thaw_epochs} epochs, on images "
            "shifted by up\n  to an eighth and mirrored. Batch normalisations kept their statistics, scales and "
            "shifts.\n"
        )
    weights = (
        "every class counts the same in the loss, however many images it has"
        if plan.class_weights == "balanced"
        else "every image counts the same in the loss"
    )
    smoothing = f" Label smoothing {plan.label_smoothing:g}." if plan.label_smoothing else ""
    provisional = (
        f"\n\n**Provisional**: the training was stopped after epoch {card.epochs_done}." if card.provisional else ""
    )
    told = f"\n\n{paragraph(card.training_note)}" if card.training_note else ""
    order = "for grey in 0..255" if recipe.depth == 1 else f"in the order {recipe.channels}"
    digest = f", weights `{plan.base_digest}`" if plan.base_digest.startswith("sha256:") else ""
    return f"""## Training

{paragraph(f"This is transfer learning from **{plan.base}**{digest}. {card.base_note}")}

{phases}- **Early stopping**: a phase ended when the loss on the held-out images, with a temperature fitted on them, had
  not fallen for {plan.patience} epochs, and the weights with the least were kept. So results on the held-out images are
  slightly too good; those on test images are not. {card.epochs_done} epochs were trained.
- **Batches** of {plan.batch_size}; {weights}. Weight decay {plan.weight_decay:g}, on kernels only.{smoothing}
- **Pre-stem**: that of the base: geometry `{recipe.geometry}`, filter `{recipe.filter}`; then minus
  {numbers(recipe.mean)}, divided by {numbers(recipe.std)}, {order}.
- **Seed**: {plan.seed}.{provisional}{told}

From the folder in which this was trained, with the `python` of its environment:

```sh
{command}
```"""
