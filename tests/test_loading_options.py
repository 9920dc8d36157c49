# SPDX-License-Identifier: Apache-2.0
"""Options that are given with a folder change what is loaded, are checked, or are refused."""

import pytest
from transformers import AutoConfig, AutoModel

import lawm_hf
from lawm_hf import BakuConfig, BakuPolicy, LAWMForPretraining, LAWMPolicy

FOLDER = lawm_hf.TABLETOP_POLICY
LOADERS = [LAWMPolicy, BakuPolicy, AutoModel, BakuConfig, AutoConfig]


@pytest.mark.parametrize("loader", LOADERS)
def test_an_option_changes_what_a_folder_says(loader):
    loaded = loader.from_pretrained(FOLDER, aggregation="uniform", n_action_steps=3)
    config = getattr(loaded, "config", loaded)
    assert (config.aggregation, config.n_action_steps, config.chunk_size) == ("uniform", 3, 10)


@pytest.mark.parametrize("loader", LOADERS)
def test_an_option_is_checked_against_what_the_folder_says(loader):
    with pytest.raises(Exception, match=r"`n_action_steps` must be from 1 to `chunk_size` = 10"):
        loader.from_pretrained(FOLDER, n_action_steps=11)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_misspelled_option_is_refused_with_a_suggestion(loader):
    with pytest.raises(ValueError, match="Did you mean `n_action_steps`"):
        loader.from_pretrained(FOLDER, n_action_step=3)


def test_an_option_that_ties_a_pair_changes_the_pair():
    assert LAWMForPretraining.from_pretrained(
        lawm_hf.TABLETOP, cut_gradient=True
    ).config.cut_gradient
