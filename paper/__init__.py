"""The paper, built from stored records alone: `python -m paper.build`."""
