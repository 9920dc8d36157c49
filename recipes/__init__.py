# SPDX-License-Identifier: Apache-2.0
"""The loops: `python -m lawm_hf.recipes.pretrain` or `python recipes/pretrain.py`."""
