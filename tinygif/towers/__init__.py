"""Pretrained, frozen text encoders: CLIP's and BERT's towers, and a cache of their outputs.

Lesson 10.
"""

from tinygif.towers.embeddings import Embeddings, resolve_tower
from tinygif.towers.pretrained import Bert, ClipText, load_tower

__all__ = ["Bert", "ClipText", "Embeddings", "load_tower", "resolve_tower"]
