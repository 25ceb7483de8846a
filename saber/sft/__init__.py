"""Stage 1 of the paper, structured evidence decomposition (SED): examples, masks, loss and the loop that trains.

Goes in: rows in the published schema with a clip each. Comes out: a checkpoint whose answer is
Y = [E_v, E_a, R] (paper, Eq. 1), trained on the negative log-likelihood of the answer alone (Eq. 2). The loss is a mean
over answer tokens; the paper writes the sum. ``train/sft.py`` is the script; ``train/recipes/`` hold the settings.
"""

from saber.sft.attention import quick_attention
from saber.sft.config import SFTConfig, option, trained_settings
from saber.sft.examples import IGNORED, Example, build_example, collate, example_stream
from saber.sft.features import ExampleBuilder, MediaCache
from saber.sft.loop import keeps_features, learning_rate_at, run_sft
from saber.sft.loss import AnswerLoss
from saber.sft.order import Source
from saber.sft.processes import join_processes, leave, usable_cores
from saber.sft.rows import DataError, Row, read_rows
from saber.sft.sources import open_source
from saber.sft.tuning import merge_adapter, prepare_tuning, save_adapter

__all__ = [
    "IGNORED", "AnswerLoss", "DataError", "Example", "ExampleBuilder", "MediaCache", "Row", "SFTConfig", "Source",
    "build_example", "collate", "example_stream", "join_processes", "keeps_features", "learning_rate_at", "leave",
    "merge_adapter", "open_source", "option", "prepare_tuning", "quick_attention", "read_rows", "run_sft",
    "save_adapter", "trained_settings", "usable_cores",
]  # fmt: skip
